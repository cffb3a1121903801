"""Shares of the columns of a weight that were never written, or written twice, where other layers have them all.

A rank that is missing when shares of row-parallel weights are joined leaves a half, a quarter or an eighth of the
columns zero in every row, or what another rank holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qkvinspect.checks.damage.patterns import without_numbers
from qkvinspect.checks.damage.stored_bytes import StoredTensor
from qkvinspect.checks.subject import Subject

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

_SHARES = (2, 4, 8)
_LOOKED = 16
"""Rows that are looked at first, spread over the weight."""

_SPARSE = 0.2
"""The share of zeros elsewhere from which a weight is sparse by intent, and some of its columns are empty."""

_LEAST = 2048
"""Bytes of the least share that is looked at: what is smaller is no rank's, and such layers come by thousands."""

_PIECE = 4 << 20

Lost = tuple[int, int, int | None]
"""The first column, that after the last, and where the same values stand as well; None where these are zero."""


def lost_columns(subject: Subject, tensors: Sequence[StoredTensor]) -> Iterator[tuple[StoredTensor, Lost]]:
    """What weights have lost that most others of their name, in other layers, have not.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    kinds = [without_numbers(tensor) for tensor in tensors]
    every = Counter(kinds)
    found = [
        (kind, tensor, lost)
        for kind, tensor in zip(kinds, tensors, strict=True)
        if every[kind] > 1
        for lost in _lost(tensor)
    ]
    alike = Counter((kind, lost) for kind, _, lost in found)
    for kind, tensor, lost in found:
        if alike[kind, lost] * 2 > every[kind]:
            continue
        if lost[2] is not None or not _of_pruned_heads(subject, tensor, *lost[:2]):
            yield tensor, lost


def told(lost: Lost) -> str:
    """In words, after the name of the weight."""
    start, stop, other = lost
    if other is None:
        return f"columns {start}:{stop} are zero in every row, and those of other layers are not: they were not written"
    same = f"those of columns {other}:{other + stop - start}"
    return f"columns {start}:{stop} are {same} in every row, and those of other layers are not: written twice"


def _of_pruned_heads(subject: Subject, tensor: StoredTensor, start: int, stop: int) -> bool:
    """Whether the columns of an output projection read rows of V that are zero as well."""
    from qkvinspect.weights.values import rows_of_values

    values = (attention.part("v") for attention in subject.by_layer.get(tensor.layer, ()) if not tensor.parts)
    for part in values:
        rows = [row for head in part.heads for row in head] if part is not None else []
        if part is not None and len(rows) == tensor.info.shape[1] and not part.weight.no_values:
            matrix = part.weight.as_matrix(part.orientation)
            return not rows_of_values(matrix, [range(row, row + 1) for row in rows[start:stop]]).any()
    return False


def _lost(tensor: StoredTensor) -> list[Lost]:
    if len(tensor.info.shape) != 2 or tensor.packed or tensor.row_bytes != tensor.info.shape[1] * tensor.itemsize:
        return []
    rows, columns = tensor.info.shape
    shares = [share for share in _SHARES if columns % share == 0 and tensor.info.nbytes >= share * _LEAST]
    possible = [one for share in shares for one in _pairs(columns // share, share)]
    for row in range(0, rows, max(rows // _LOOKED, 1)):
        if not possible:
            return []
        values = _rows(tensor, row, row + 1)
        possible = [one for one in possible if _holds(values, one)]
    step = max(_PIECE // tensor.row_bytes, 1)
    held, varied = 0, False
    for row in range(0, rows, step):
        if not possible:
            return []
        values = _rows(tensor, row, min(row + step, rows))
        possible = [one for one in possible if _holds(values, one)]
        held += int((values != 0).sum())
        varied = varied or bool((values != values[:, :1]).any())
    found = _widest([one for one in possible if varied or one[2] is None])  # rows of one word were filled, not copied
    written = columns - sum(stop - start for start, stop, other in found if other is None)
    return found if held > (1 - _SPARSE) * rows * written else []


def _pairs(width: int, share: int) -> Iterator[Lost]:
    """Shares that may be zero, and those that may be what a share before them is."""
    for number in range(share):
        yield number * width, (number + 1) * width, None
    for number in range(1, share):
        for other in range(number):
            yield number * width, (number + 1) * width, other * width


def _rows(tensor: StoredTensor, first: int, last: int) -> Array:
    data = tensor.read(first * tensor.row_bytes, last * tensor.row_bytes)
    return data.view(f"u{tensor.itemsize}").reshape(last - first, -1)


def _holds(values: Array, one: Lost) -> bool:
    start, stop, other = one
    if other is None:
        return not values[:, start:stop].any()
    return bool((values[:, start:stop] == values[:, other : other + stop - start]).all())


def _widest(possible: Sequence[Lost]) -> list[Lost]:
    """Without shares of what is lost as a whole, and without zeros that are equal to zeros."""
    zero = [(start, stop) for start, stop, other in possible if other is None]
    kept: list[Lost] = []
    for start, stop, other in sorted(possible, key=lambda one: (one[0] - one[1], one[2] is not None)):
        within = any(first <= start and stop <= last for first, last, _ in kept)
        if not within and (other is None or (start, stop) not in zero):
            kept.append((start, stop, other))
    return kept
