"""Sums of squares of many small weights of one table, in one call for all rows of a width that lie near each other.

A weight of some kilobytes takes several times as long to be described, cut into tiles and added up as to be summed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from qkvinspect.checkpoint import ByteSource, Orientation
from qkvinspect.errors import LayoutError
from qkvinspect.sources.briefly import AT_ONCE, is_filling, read_briefly
from qkvinspect.tensor_table import TensorTable
from qkvinspect.weights.compiled import squares_of, squares_of_data
from qkvinspect.weights.strided import shape_as_rows
from qkvinspect.weights.table_weight import table_of
from qkvinspect.weights.weight import Weight

_SMALL = 32 << 10
"""Bytes of a weight, and of what lies between two that are read at once."""


class SmallForm(NamedTuple):
    """What small weights of one kind have in common: rows without gaps that are read and summed as they are stored."""

    dtype: str
    rows: int
    cols: int
    nbytes: int


class SmallWeight(NamedTuple):
    """Where such a weight lies."""

    source: ByteSource
    start: int
    form: SmallForm


class SmallWeights:
    """Tells which weights are such, by what is known of their kind."""

    def __init__(self) -> None:
        self._forms: dict[tuple[int, int, Orientation], SmallForm | None] = {}

    def of(self, weight: Weight, orientation: Orientation) -> SmallWeight | None:
        """The weight as such a one; None where it is none."""
        table = table_of(weight)
        if table is None:
            return None
        start, number = table.place(weight.name)
        key = id(table), number, orientation
        if key not in self._forms:
            self._forms[key] = _form(table, weight, orientation)
        form = self._forms[key]
        return None if form is None else SmallWeight(table.source, start, form)


def _form(table: TensorTable, weight: Weight, orientation: Orientation) -> SmallForm | None:
    kind = table.kind(weight.name)
    dtype = kind.dtype
    if not 0 < kind.nbytes <= _SMALL or orientation != "out_in" or weight.no_values or not is_filling(table.source):
        return None
    if squares_of(dtype.name) is None:
        return None
    try:
        return SmallForm(dtype.name, *shape_as_rows(weight.name, kind.shape, orientation), kind.nbytes)
    except LayoutError:
        return None  # whoever reads it alone says what is wrong


def squares_of_each(weights: Sequence[SmallWeight]) -> list[array[float] | None]:
    """The sum of squares of each row of each weight; None of one that must be looked at alone.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    found: list[array[float] | None] = [None] * len(weights)
    for run in _runs(weights):
        first, last = weights[run.start], weights[run.stop - 1]
        begin, stop = first.start, last.start + last.form.nbytes
        data = memoryview(read_briefly(first.source, begin, stop - begin))
        alike: dict[tuple[str, int], list[int]] = {}
        for at in run:
            form = weights[at].form
            alike.setdefault((form.dtype, form.cols), []).append(at)
        for (dtype, _), places in alike.items():
            pieces = [data[weights[at].start - begin :][: weights[at].form.nbytes] for at in places]
            squares = squares_of_data(dtype, b"".join(pieces), sum(weights[at].form.rows for at in places))
            if squares is None:
                continue
            every, end = squares.tobytes(), 0
            for at in places:
                start, end = end, end + 8 * weights[at].form.rows
                found[at] = array("d", every[start:end])
    return found


def _runs(weights: Sequence[SmallWeight]) -> Iterator[range]:
    """Neighbours that are read at once."""
    first = 0
    for at in range(1, len(weights)):
        before, one = weights[at - 1], weights[at]
        gap = one.start - before.start - before.form.nbytes
        far = one.start + one.form.nbytes - weights[first].start > AT_ONCE
        if far or not 0 <= gap <= _SMALL or one.source is not before.source:
            yield range(first, at)
            first = at
    if weights:
        yield range(first, len(weights))
