"""Sums of squares of many small weights of tables, in one call for all rows of a width that lie near each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from qkvinspect.checkpoint import Orientation
from qkvinspect.errors import LayoutError
from qkvinspect.fast_tuple import NamedTuple
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


Squares = Sequence[float]
"""The sum of squares of each row."""

_Place = tuple[int, int, int]
"""Where a weight begins, the number of its column, and its place there."""


def squares_of_columns(columns: Sequence[tuple[SmallForm, Sequence[int]]]) -> list[list[Squares | None]]:
    """The sums of weights of one table; None of one that must be looked at by numpy.

    Args:
        columns: weights of one form, by where each begins.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    step = _step(columns)
    if step:
        return _in_step(columns, step)
    found: list[list[Squares | None]] = [[None] * len(starts) for _, starts in columns]
    places = [(start, number, at) for number, (_, starts) in enumerate(columns) for at, start in enumerate(starts)]
    for run in _runs(sorted(places), [form.nbytes for form, _ in columns]):
        begin, stop = run[0][0], run[-1][0] + columns[run[-1][1]][0].nbytes
        data = memoryview(read_briefly(columns[0][0].table.source, begin, stop - begin))
        of_column: list[list[_Place]] = [[] for _ in columns]
        for place in run:
            of_column[place[1]].append(place)
        for (form, _), some, sums in zip(columns, of_column, found, strict=True):
            pieces = [data[start - begin : start - begin + form.nbytes] for start, _, _ in some]
            for (_, _, at), squares in zip(some, _of_pieces(form, pieces), strict=True):
                sums[at] = squares
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


def _in_step(columns: Sequence[tuple[SmallForm, Sequence[int]]], step: int) -> list[list[Squares | None]]:
    """The sums of weights that lie so."""
    found: list[list[Squares | None]] = [[] for _ in columns]
    least = min(starts[0] for _, starts in columns)
    size = max(starts[0] + form.nbytes for form, starts in columns) - least
    count, most = len(columns[0][1]), max((AT_ONCE - size) // step, 0) + 1
    for done in range(0, count, most):
        some = min(most, count - done)
        data = memoryview(read_briefly(columns[0][0].table.source, least + done * step, (some - 1) * step + size))
        for (form, starts), sums in zip(columns, found, strict=True):
            places = range(starts[0] - least, starts[0] - least + some * step, step)
            sums.extend(_of_pieces(form, [data[start : start + form.nbytes] for start in places]))
    return found


def _of_pieces(form: SmallForm, pieces: Sequence[memoryview]) -> Iterable[Squares | None]:
    rows = form.rows
    squares = squares_of_data(form.dtype, b"".join(pieces), rows * len(pieces)) if pieces else None
    if squares is None:  # some of them are odd
        alone = [squares_of_data(form.dtype, piece, rows) for piece in pieces]
        return [None if one is None else one.tolist() for one in alone]
    every = squares.tolist()
    return [every[at : at + rows] for at in range(0, len(every), rows)]


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
