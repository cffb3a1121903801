"""What the checks need of every head besides its norm, in one more pass over the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.layouts.packing import merge
from qkvinspect.progress import Progress, counter
from qkvinspect.weights.strided import StridedMatrix
from qkvinspect.weights.weight import Matrix

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

_READ = 64 << 20
"""Bytes of whole heads that are held at a time."""

_TOGETHER = 1 << 20
"""Bytes of heads whose numbers are summed up in one call for all that are alike."""

_WIDEST = 1024
"""Rows of a head above which its spectrum is not computed: it may be a whole part."""


@dataclass(frozen=True, slots=True)
class HeadValues:
    """The values of one head of one part, summarised.

    Attributes:
        digest: a hash of its rows as nn.Linear would store them, little-endian.
        lowest, highest: its extreme values; nan if one is not a number; None where the values are not known.
        stable_rank: squared Frobenius norm over squared spectral norm, from 1 (all rows are multiples of one)
            to the number of rows; None where it was not computed.
    """

    digest: bytes
    lowest: float | None
    highest: float | None
    stable_rank: float | None

    @property
    def constant(self) -> bool:
        """Whether all values are the same number, as far as that is known."""
        return self.lowest is not None and self.lowest == self.highest


Key = tuple[str, str]
"""The stored tensor and the part: two modules may have one name."""


def read_heads(
    attentions: Sequence[Attention], progress: Progress | None = None
) -> Mapping[Key, tuple[HeadValues, ...]]:
    """Read every part once.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    parts = [(attention, part) for attention in attentions for part in attention.parts]
    sizes = [_nbytes(part) for _, part in parts]
    advance = counter(sum(sizes), progress)
    found: dict[Key, list[HeadValues]] = {}
    held: list[_Head] = []
    nbytes = 0
    for (attention, part), size in zip(parts, sizes, strict=True):
        values = found[part.weight.name, part.name] = []
        for head in _heads(part, values, known=attention.heads is not None):
            held.append(head)
            nbytes += head.nbytes
            if nbytes >= _TOGETHER:
                _sum_up(held)
                held, nbytes = [], 0
        if size >= _TOGETHER:  # what was read at once is let go
            _sum_up(held)
            held, nbytes = [], 0
        advance(size)
    _sum_up(held)
    return {key: tuple(values) for key, values in found.items()}


class _Head(NamedTuple):
    """One head that was read.

    Attributes:
        into: where its values go, in their place.
        numbers: None where they are not known.
        spectrum: whether the stable rank is wanted.
    """

    into: list[HeadValues]
    digest: bytes
    numbers: Array | None
    spectrum: bool

    @property
    def nbytes(self) -> int:
        return 0 if self.numbers is None else self.numbers.nbytes


def _sum_up(heads: Sequence[_Head]) -> None:
    """Put the values of heads where they belong, computed of all that are alike at once."""
    alike: dict[tuple[tuple[int, ...], str, bool], dict[int, Array]] = {}
    for place, head in enumerate(heads):
        if head.numbers is not None and head.numbers.size:
            kind = head.numbers.shape, head.numbers.dtype.str, head.spectrum
            alike.setdefault(kind, {})[place] = head.numbers
    found: dict[int, tuple[float | None, float | None, float | None]] = {}
    for (_, _, spectrum), some in alike.items():
        found.update(zip(some, _numbers(list(some.values()), spectrum=spectrum), strict=True))
    for place, head in enumerate(heads):
        head.into.append(HeadValues(head.digest, *found.get(place, (None, None, None))))


def _nbytes(part: Part) -> int:
    return part.weight.dtype.nbytes(part.shape[0] * part.shape[1])


def _heads(part: Part, into: list[HeadValues], *, known: bool) -> Iterator[_Head]:
    """Read each head; a part whose heads are not known counts as one head."""
    if part.weight.why:
        return
    matrix = part.weight.as_matrix(part.orientation)
    read = _stored(part, matrix) if isinstance(matrix, StridedMatrix) else _decoded(part, matrix)
    yield from (_Head(into, digest, numbers, known) for digest, numbers in read)


def _stored(part: Part, matrix: StridedMatrix) -> Iterator[tuple[bytes, Array | None]]:
    """Read heads that are stored as plain numbers: equal bytes are equal heads."""
    import numpy as np

    from qkvinspect.weights.reading import numbers, read_rows, stored_words

    dtype, width = part.weight.dtype, matrix.cols * matrix.unit // 8
    for first, last in _groups([len(rows) * width for rows in part.heads]):
        heads = part.heads[first:last]
        count = sum(map(len, heads))
        if count * width > _READ:  # one head alone may be too large
            yield _streamed(read_rows(matrix, heads))
            continue
        data = b"".join(read_rows(matrix, merge(heads)))  # which mostly lie side by side
        words = np.frombuffer(data, stored_words(dtype, matrix.unit)).reshape(count, matrix.cols)
        is_real = dtype.kind not in ("opaque", "complex")
        every = numbers(words, dtype)[0] if is_real and len(data) <= _TOGETHER else None  # small ones at once
        view, start = memoryview(data), 0
        for rows in heads:
            stop = start + len(rows)
            if every is not None:
                values = every[start:stop]
            else:
                values = numbers(words[start:stop], dtype)[0] if is_real else words[:0]
            yield _digest(view[start * width : stop * width]), values
            start = stop


def _decoded(part: Part, matrix: Matrix) -> Iterator[tuple[bytes, Array | None]]:
    """Read heads that are stored as codes: equal numbers are equal heads, whatever their codes."""
    from qkvinspect.weights.values import rows_of_values, value_tiles

    for rows in part.heads:
        if len(rows) * matrix.cols * 8 > _READ:
            tiles = value_tiles(matrix.take(rows))
            yield _streamed(tile.read()[0].tobytes() for tile in tiles)
            continue
        values = rows_of_values(matrix, [rows])
        yield _digest(values.tobytes()), values


def _groups(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring heads that fit in memory together."""
    first, held = 0, 0
    for index, size in enumerate(sizes):
        if held and held + size > _READ:
            yield first, index
            first, held = index, 0
        held += size
    if sizes:
        yield first, len(sizes)


def _streamed(pieces: Iterator[bytes]) -> tuple[bytes, None]:
    """Hash a part that is too large for memory; nothing else is known of it."""
    digest = blake2b(digest_size=16)
    for piece in pieces:
        digest.update(piece)
    return digest.digest(), None


def _digest(data: bytes | memoryview) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _numbers(heads: Sequence[Array], *, spectrum: bool) -> Iterator[tuple[float, float, float | None]]:
    """Of heads of one shape and dtype the lowest and the highest value, and the stable rank."""
    import numpy as np

    values = np.stack(heads)
    lowest, highest = values.min(axis=(1, 2)), values.max(axis=(1, 2))
    ranks: list[float | None] = [None] * len(values)
    if spectrum and 2 <= values.shape[1] <= _WIDEST:
        scales = np.maximum(np.abs(lowest), np.abs(highest))
        (told,) = np.nonzero(np.isfinite(scales) & (scales > 0))
        for place, rank in zip(told.tolist(), _stable_ranks(values[told], scales[told]), strict=True):
            ranks[place] = rank
    yield from zip(lowest.tolist(), highest.tolist(), ranks, strict=True)


def _stable_ranks(values: Array, scales: Array) -> list[float]:
    """Of each of [heads, rows, columns] whose largest value in size is its scale."""
    import numpy as np

    narrow = np.finfo(np.float32)  # beyond it, float64 is first brought to a size that float32 holds
    scales = scales[:, None, None]
    if values.dtype == np.float32 or ((scales > float(narrow.tiny)) & (scales < float(narrow.max))).all():
        scaled = values.astype(np.float32) / scales.astype(np.float32)
    else:
        scaled = (values / scales).astype(np.float32)
    spread = np.linalg.eigvalsh(scaled @ np.swapaxes(scaled, 1, 2))
    return (spread.sum(axis=1) / spread[:, -1]).tolist()
