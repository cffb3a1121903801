"""A run of bytes of a weight is not what was trained.

It holds zeros, a copy of another place, or numbers of sizes that no weight has: disks, networks and programs lose
pages, write them twice, shift them by a byte or flip a bit of each word, without making any value NaN. The finding
names the tensor, the heads and the bytes, counted from where the tensor begins, of:

- one word over and over, for 512 bytes and more, that begins or ends within a row or cuts a head: heads and parts that
  are zero as a whole are other findings, and where many such runs are, the weight is sparse;
- what stands at two places, for 512 bytes and more, unless whole heads are equal there, which is another finding;
- blocks of 3 KiB whose values have sizes of no weight, or with gaps between their sizes as turned bits leave them;
  where many tensors have such gaps, they are decoded codes, alone or with something added, and only values that are
  larger than any weight's tell anything;
- one to four values of 256 and more that are a hundred times larger than all others of their weight or bias;
- a half, a quarter or an eighth of the columns that are zero, or another such share, where other layers' are not;
- a part whose heads have the norms and ranks of numbers drawn once, where other layers' are trained;
- of codes of eight bits, blocks of 2 KiB and more whose codes are rare in the rest of the tensor.

The thresholds were set on trained checkpoints by others, in five dtypes: none has such a block. Blocks from 4 KiB on
are found. Only attention is read, so a copy from elsewhere is noticed only if its numbers have unusual sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING

from qkvinspect.checks.damage.patterns import by_intent, evenly_spaced, in_most_layers
from qkvinspect.checks.damage.places import on_sectors, placed
from qkvinspect.checks.damage.stored_bytes import StoredTensor, stored_tensors
from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.finding_codes import FindingCode
from qkvinspect.workers import in_batches, in_order

if TYPE_CHECKING:
    from qkvinspect.checks.damage.copied_runs import Marks
    from qkvinspect.checks.damage.odd_exponents import Counts
    from qkvinspect.weights.reading import Array

CODE: FindingCode = FindingCode.DAMAGED_BLOCK

LEAST = 512
_PIECE = 4 << 20
_SEGMENT = 64 << 20
"""Bytes whose counts are held at a time."""

_MANY = 8
"""Runs of one word beyond which a tensor is sparse by intent."""

_LISTED = 8
"""How many copies are reported for one tensor."""

_DEAD = 0.05
"""The share of the usual norm below which a head is small as a whole."""

_VARIED, _DISTINCT = 64, 16
"""Words of a copy that are not its most frequent one, and how many there are: fewer may be the pattern of a weight."""

_CODED = 48
"""Different words among 256 below which they are decoded codes, whose sizes have gaps."""

_SPARSE = 0.2
"""The share of zeros elsewhere above which a run of them is by intent, unless it lies on sectors."""

_ONE_DIRECTION = 1.2
"""The stable rank under which values are products of two lists."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one pass finds in a piece of a tensor."""

    constant: list[tuple[int, int]]
    marks: Marks
    counts: Counts | None
    codes: Array | None


def find(subject: Subject) -> Iterator[Fault]:
    from qkvinspect.checks.damage import odd_codes
    from qkvinspect.checks.damage.copied_runs import rarity
    from qkvinspect.checks.damage.drawn_anew import drawn_anew
    from qkvinspect.checks.damage.lone_values import with_large_tails
    from qkvinspect.checks.damage.lost_columns import lost_columns
    from qkvinspect.checks.damage.lost_columns import told as lost_words
    from qkvinspect.checks.damage.odd_exponents import LARGE, of_codes

    tensors = list(stored_tensors(subject.attentions))
    every = rarity(sum(tensor.nbytes // tensor.itemsize for tensor in tensors))
    marks: list[Marks] = []
    odd: list[tuple[Fault, str]] = []
    roughness: list[float] = []
    constant: list[tuple[StoredTensor, tuple[int, int], str]] = []
    yield from _lone_in_biases(subject)
    large_tails = with_large_tails(tensor.info for tensor in tensors)
    for tensor, seen in _passed(tensors, every):
        yield from _lone(tensor, seen, in_tail=tensor.info.name in large_tails)
        constant += _constant(tensor, seen)
        found, rough = _odd(subject, tensor, seen)
        odd += found
        roughness += [rough] if rough is not None else []
        codes = [one.codes for one in seen if one.codes is not None]
        runs = list(odd_codes.odd(codes, alone=tensor.info.dtype.block == 1))
        for start, stop in runs if runs and not _one_direction(subject, tensor) else ():
            yield tensor.layer, f"{placed(tensor, start, stop)} hold codes that are rare elsewhere in it"
        marks.append(_together([one.marks for one in seen]))
    usual = in_most_layers(tensors, [(tensor, run) for tensor, run, _ in constant])
    for tensor, run, what in constant:
        if (tensor, run) not in usual:
            yield tensor.layer, f"{placed(tensor, *run)} {what}"
    coded = of_codes(roughness)
    for tensor, lost in lost_columns(subject, tensors):
        yield tensor.layer, f"{tensor.info.name.removeprefix(f'{tensor.layer}.')}: {lost_words(lost)}"
    yield from (fault for fault, what in odd if what == LARGE or not coded)
    yield from _copied(subject, tensors, marks)
    yield from drawn_anew(subject)


def _lone(tensor: StoredTensor, seen: Sequence[_Seen], *, in_tail: bool) -> Iterator[Fault]:
    from qkvinspect.checks.damage.lone_values import of_weight, told

    counts = [one.counts for one in seen if one.counts is not None]
    for value in of_weight(tensor.info, counts, in_tail=in_tail) if counts else ():
        if tensor.parts and not isfinite(value[1]):
            continue  # that is another finding
        place = value[0] * tensor.itemsize
        yield tensor.layer, f"{placed(tensor, place, place + tensor.itemsize)} hold {told(tensor.info, value)}"


def _lone_in_biases(subject: Subject) -> Iterator[Fault]:
    from qkvinspect.checks.damage.lone_values import of_biases, told

    for layer, info, value in of_biases(subject.attentions):
        place, size = value[0], info.dtype.bits // 8
        where = f"bytes {place * size}:{(place + 1) * size} of {info.name.removeprefix(f'{layer}.')}"
        yield layer, f"{where} hold {told(info, value)}"


def _passed(tensors: Sequence[StoredTensor], every: int) -> Iterator[tuple[StoredTensor, list[_Seen]]]:
    """What is seen in each tensor, piece by piece, on all cores."""
    from qkvinspect.checks.damage import constant_runs, copied_runs, odd_codes, odd_exponents

    def look(work: tuple[StoredTensor, int]) -> _Seen:
        tensor, start = work
        data = tensor.read(start, min(start + _PIECE, tensor.nbytes))
        too_short = tensor.nbytes < LEAST  # for runs and for copies
        runs = [] if too_short else constant_runs.constant_blocks(data, tensor.itemsize)
        counts = None
        dtype = tensor.info.dtype
        if not tensor.packed and odd_exponents.countable(dtype) and dtype.bits == 8 * tensor.itemsize:
            words = data.view(f"{'>' if tensor.info.byteorder == 'big' else '<'}u{tensor.itemsize}")
            counts = odd_exponents.counts(words.astype(f"u{tensor.itemsize}", copy=False), dtype)
        found = copied_runs.marked(data[:0] if too_short else data, tensor.itemsize, start, every)
        codes = odd_codes.histograms(data) if odd_codes.of_eight_bits(tensor.weight, dtype) else None
        return _Seen([(start + first, start + last) for first, last in runs], found, counts, codes)

    pieces = [(tensor, start) for tensor in tensors for start in range(0, tensor.nbytes, _PIECE)]
    batches = in_batches(pieces, lambda piece: min(_PIECE, piece[0].nbytes - piece[1]), _PIECE)
    seen = chain.from_iterable(in_order(lambda some: [look(one) for one in some], batches))
    for tensor in tensors:
        yield tensor, [next(seen) for _ in range(0, tensor.nbytes, _PIECE)]


def _together(marks: Sequence[Marks]) -> Marks:
    import numpy as np

    from qkvinspect.checks.damage.copied_runs import Marks

    return Marks(np.concatenate([one.places for one in marks]), np.concatenate([one.keys for one in marks]))


def _constant(tensor: StoredTensor, seen: Sequence[_Seen]) -> Iterator[tuple[StoredTensor, tuple[int, int], str]]:
    """Runs of one word that nothing in the tensor itself explains, and what they hold."""
    from qkvinspect.checks.damage import constant_runs

    runs = [
        constant_runs.exact(tensor.read, run, tensor.nbytes, tensor.itemsize)
        for run in constant_runs.joined([run for one in seen for run in one.constant])
    ]
    runs = [(start, stop) for start, stop in runs if stop - start >= LEAST]
    if len(runs) > _MANY or (len(runs) > 1 and evenly_spaced(tensor, runs)):
        return
    for start, stop in runs:
        if (start, stop) == (0, tensor.nbytes) or _by_intent(tensor, start, stop):
            continue
        word = tensor.read(start, start + tensor.itemsize)
        if not word.any() and not on_sectors(tensor, start, stop) and _zeros(tensor, seen, runs) > _SPARSE:
            continue
        what = "are zero" if not word.any() else f"repeat {word[::-1].tobytes().hex()}"
        yield tensor, (start, stop), f"{what}{on_sectors(tensor, start, stop)}"


def _zeros(tensor: StoredTensor, seen: Sequence[_Seen], runs: Sequence[tuple[int, int]]) -> float:
    """The share of zeros outside of these runs, where they are counted."""
    zeros = sum(int(one.counts[:, -1].sum()) for one in seen if one.counts is not None)
    within = sum(stop - start for start, stop in runs)
    return (zeros - within // tensor.itemsize) * tensor.itemsize / max(tensor.nbytes - within, 1)


def _by_intent(tensor: StoredTensor, start: int, stop: int) -> bool:
    """Whether whole rows or heads are zero: these were pruned, or other checks report them."""
    row = tensor.row_bytes
    if start % row or stop % row or (tensor.packed and not tensor.is_zero_at(start)):
        return False
    if stop - start <= row:
        return True
    if not tensor.parts or tensor.packed:
        return not tensor.by_rows and stop < tensor.nbytes
    rows = range(start // row, stop // row)
    heads = [head for part in tensor.parts if part.axis == 0 for head in part.heads]
    covered = [head for head in heads if rows.start < head.stop and head.start < rows.stop]
    return all(rows.start <= head.start and head.stop <= rows.stop for head in covered)


def _odd(subject: Subject, tensor: StoredTensor, seen: Sequence[_Seen]) -> tuple[list[tuple[Fault, str]], float | None]:
    """What its blocks hold that others do not, and in which way; and how rough its sizes are."""
    import numpy as np

    from qkvinspect.checks.damage import odd_exponents

    counts = [one.counts for one in seen if one.counts is not None]
    if not counts:
        return [], None
    odd: list[tuple[Fault, str]] = []
    found, step = np.concatenate(counts), odd_exponents.step(tensor.itemsize)
    segments = list(_segments(tensor, len(found)))
    runs = [odd_exponents.odd(found[first:last], tensor.itemsize) for first, last in segments]
    zeros = found[:, -1].sum() / max(found.sum(), 1)
    if any(runs) and (zeros > _SPARSE or _one_direction(subject, tensor) or _coded(tensor)):
        runs = [odd_exponents.odd(found[first:last], tensor.itemsize, gaps=False) for first, last in segments]
    for (first, _), some in zip(segments, runs, strict=True):
        for start, stop, what in some:
            ends = (first + start) * step, (first + stop) * step
            if what != odd_exponents.SMALL or not _in_dead_heads(tensor, *ends):
                odd.append(((tensor.layer, f"{placed(tensor, *ends)} hold {what}"), what))
    rough = odd_exponents.roughness(found, tensor.itemsize)
    if rough is not None and not odd_exponents.usual(rough) and _one_direction(subject, tensor):
        rough = None
    return odd, rough


def _in_dead_heads(tensor: StoredTensor, start: int, stop: int) -> bool:
    """Whether the middle of some bytes belongs to heads that are small as a whole, as training leaves them."""
    middle = (start + stop) // 2
    for part in tensor.parts:
        norms = [measure.norm for measure in part.head_measures]
        for head in tensor.heads_at(middle, middle + 1).get(part.name, []):
            if head < len(norms) and norms[head] < _DEAD * median(norms):
                return True
    return False


def _segments(tensor: StoredTensor, blocks: int) -> Iterator[tuple[int, int]]:
    """Blocks that are judged together: of one part, where parts are a few runs of rows."""
    from qkvinspect.checks.damage import odd_exponents

    step = odd_exponents.step(tensor.itemsize)
    runs = sorted((run.start, run.stop) for part in tensor.parts if part.axis == 0 for run in part.rows)
    edges = {0, blocks}
    if len(runs) <= _MANY:
        edges |= {-(-start * tensor.row_bytes // step) for start, _ in runs}
    edges |= set(range(0, blocks, _SEGMENT // step))
    ordered = sorted(edge for edge in edges if edge <= blocks)
    yield from pairwise(ordered)


def _one_direction(subject: Subject, tensor: StoredTensor) -> bool:
    """Whether any head of the layer is all but rank one."""
    parts = [(part.weight.name, part.name) for one in subject.by_layer.get(tensor.layer, ()) for part in one.parts]
    heads = [one for key in parts if key in subject.values for one in subject.values[key]]
    return any(one.stable_rank is not None and one.stable_rank < _ONE_DIRECTION for one in heads)


def _coded(tensor: StoredTensor) -> bool:
    """Whether there are only few different numbers there."""
    import numpy as np

    size = 256 * tensor.itemsize
    last = max(tensor.nbytes - size, 0)
    starts = {last * part // 15 // tensor.itemsize * tensor.itemsize for part in range(16)}
    words = [tensor.read(start, min(start + size, tensor.nbytes)).view(f"u{tensor.itemsize}") for start in starts]
    return median(len(np.unique(some)) for some in words) < _CODED


def _copied(subject: Subject, tensors: Sequence[StoredTensor], marks: Sequence[Marks]) -> Iterator[Fault]:
    from qkvinspect.checks.damage.copied_runs import copies
    from qkvinspect.checks.damage.known_copies import is_known

    told: dict[int, int] = {}
    reads, sizes = [tensor.read for tensor in tensors], [tensor.nbytes for tensor in tensors]
    found = list(copies(marks, reads, sizes, [tensor.itemsize for tensor in tensors]))
    intended = by_intent(tensors, found)
    for (a, first), (b, second), size in found:
        one, other = tensors[a], tensors[b]
        if a == b and (a, second - first) in intended:
            continue
        if size < max(LEAST, 64 * one.itemsize) or is_known(subject, one, first, other, second, size):
            continue
        if not _is_varied(one, first, size):
            continue
        told[b] = told.get(b, 0) + 1
        if told[b] <= _LISTED:
            where = f"bytes {first}:{first + size} of {one.info.name}" if a != b else f"bytes {first}:{first + size}"
            yield other.layer, f"{placed(other, second, second + size)} are those of {where}: one was written over"


def _is_varied(tensor: StoredTensor, start: int, size: int) -> bool:
    import numpy as np

    size = min(size, _PIECE) // tensor.itemsize * tensor.itemsize
    _, counts = np.unique(tensor.read(start, start + size).view(f"u{tensor.itemsize}"), return_counts=True)
    return len(counts) >= _DISTINCT and int(counts.sum() - counts.max()) >= _VARIED
