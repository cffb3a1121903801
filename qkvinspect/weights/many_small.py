"""Sums of squares of many small weights of tables, in one call for all rows of a width that lie near each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from qkvinspect.checkpoint import Orientation
from qkvinspect.errors import LayoutError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.sources.briefly import AT_ONCE, is_filling, read_briefly
from qkvinspect.tensor_table import TensorTable
from qkvinspect.weights.compiled import added, squares_of, squares_of_data
from qkvinspect.weights.strided import shape_as_rows
from qkvinspect.weights.table_weight import table_of
from qkvinspect.weights.weight import Weight

_SMALL = 32 << 10
"""Bytes of a weight, and of what lies between two that are read at once."""


class SmallForm(NamedTuple):
    """What small weights of one kind have in common: rows without gaps that are read and summed as they are stored."""

    table: TensorTable
    dtype: str
    rows: int
    cols: int
    nbytes: int


class SmallForms:
    """Tells which weights are such, by what is known of their kind."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, Orientation], SmallForm | None] = {}

    def of(self, weight: Weight, orientation: Orientation) -> SmallForm | None:
        """The form of a weight; None where it is none of these."""
        table = table_of(weight)
        if table is None:
            return None
        key = id(table), table.place(weight.name)[1], orientation
        if key not in self._known:
            self._known[key] = _form(table, weight, orientation)
        return self._known[key]


def _form(table: TensorTable, weight: Weight, orientation: Orientation) -> SmallForm | None:
    kind = table.kind(weight.name)
    dtype = kind.dtype
    if not 0 < kind.nbytes <= _SMALL or orientation != "out_in" or weight.no_values or not is_filling(table.source):
        return None
    if squares_of(dtype.name) is None:
        return None
    try:
        return SmallForm(table, dtype.name, *shape_as_rows(weight.name, kind.shape, orientation), kind.nbytes)
    except LayoutError:
        return None  # whoever reads it alone says what is wrong


class SquaresOfMany:
    """The sum of squares of each row of many weights of one form.

    Attributes:
        values: of the first weight, then of the next.
        odd: which weights must be looked at by numpy.
    """

    __slots__ = ("_form", "odd", "values")

    def __init__(self, form: SmallForm, count: int) -> None:
        self._form, self.odd = form, set[int]()
        empty: Any = memoryview(bytearray(8 * form.rows * count))
        self.values: memoryview[float] = empty.cast("d")

    def __iter__(self) -> Iterator[list[float] | None]:
        """Those of each weight; None for one that is odd."""
        rows = self._form.rows
        for place in range(len(self.values) // rows):
            squares: Any = self._of(place)
            yield None if place in self.odd else squares.tolist()

    def _of(self, place: int) -> memoryview[float]:
        return self.values[place * self._form.rows : (place + 1) * self._form.rows]

    def put(self, places: Sequence[int], pieces: Sequence[memoryview]) -> None:
        """Sum weights, of which each is given as it is stored."""
        form, rows = self._form, self._form.rows
        squares = squares_of_data(form.dtype, b"".join(pieces), rows * len(pieces)) if pieces else None
        if squares is not None and isinstance(places, range):
            self.values[places[0] * rows : (places[-1] + 1) * rows] = squares
            return
        for number, (place, piece) in enumerate(zip(places, pieces, strict=True)):
            one = squares_of_data(form.dtype, piece, rows) if squares is None else squares[number * rows :][:rows]
            if one is None:
                self.odd.add(place)
            else:
                self._of(place)[:] = one

    def sums(self, runs: Sequence[range]) -> memoryview[float]:
        """Of each weight the sum over some of its rows."""
        each = [added([self.values[row :: self._form.rows] for row in run]) for run in runs]
        return each[0] if len(each) == 1 else added(each)


_Place = tuple[int, int, int]
"""Where a weight begins, the number of its column, and its place there."""


def squares_of_columns(columns: Sequence[tuple[SmallForm, Sequence[int]]]) -> list[SquaresOfMany]:
    """The sums of weights of one table.

    Args:
        columns: weights of one form, by where each begins.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    found = [SquaresOfMany(form, len(starts)) for form, starts in columns]
    step = _step(columns)
    if step:
        _put_in_step(columns, step, found)
        return found
    places = [(start, number, at) for number, (_, starts) in enumerate(columns) for at, start in enumerate(starts)]
    for run in _runs(sorted(places), [form.nbytes for form, _ in columns]):
        begin, stop = run[0][0], run[-1][0] + columns[run[-1][1]][0].nbytes
        data = memoryview(read_briefly(columns[0][0].table.source, begin, stop - begin))
        of_column: list[list[_Place]] = [[] for _ in columns]
        for place in run:
            of_column[place[1]].append(place)
        for (form, _), some, sums in zip(columns, of_column, found, strict=True):
            pieces = [data[start - begin : start - begin + form.nbytes] for start, _, _ in some]
            sums.put([at for _, _, at in some], pieces)
    return found


def _step(columns: Sequence[tuple[SmallForm, Sequence[int]]]) -> int:
    """By how many bytes the weights of each module lie behind those of the one before; 0 where that is not one number,
    or they lie too far apart to be read at once.
    """
    first = columns[0][1]
    step = first[1] - first[0] if len(first) > 1 else 0
    if step <= 0 or any(starts != [*range(starts[0], starts[0] + step * len(starts), step)] for _, starts in columns):
        return 0
    places = [(starts[at], number, at) for number, (_, starts) in enumerate(columns) for at in (0, 1)]
    runs = [*_runs(sorted(places), [form.nbytes for form, _ in columns])]
    return step if len(runs) == 1 else 0


def _put_in_step(columns: Sequence[tuple[SmallForm, Sequence[int]]], step: int, found: Sequence[SquaresOfMany]) -> None:
    """Sum weights that lie so."""
    least = min(starts[0] for _, starts in columns)
    size = max(starts[0] + form.nbytes for form, starts in columns) - least
    count, most = len(columns[0][1]), max((AT_ONCE - size) // step, 0) + 1
    for done in range(0, count, most):
        some = min(most, count - done)
        data = memoryview(read_briefly(columns[0][0].table.source, least + done * step, (some - 1) * step + size))
        for (form, starts), sums in zip(columns, found, strict=True):
            places = range(starts[0] - least, starts[0] - least + some * step, step)
            sums.put(range(done, done + some), [data[start : start + form.nbytes] for start in places])


def _runs(places: Iterable[_Place], sizes: Sequence[int]) -> Iterator[list[_Place]]:
    """Neighbours that are read at once."""
    run: list[_Place] = []
    begin = stop = 0
    for place in places:
        start = place[0]
        end = start + sizes[place[1]]
        if run and (not 0 <= start - stop <= _SMALL or end - begin > AT_ONCE):
            yield run
            run = []
        if not run:
            begin = start
        run.append(place)
        stop = end
    if run:
        yield run
