"""Tables in a terminal that is too narrow for them: shorter names, names on lines of their own, fewer columns."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.errors import clean_each
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.render.document import DataTable
from qkvinspect.render.writers.wrapping import most_of, width_of

_GAPS = (3, 2)
"""Columns between those of a table: what looks best, and what will do."""


@dataclass(frozen=True, slots=True)
class Laid:
    """A table that fits.

    Attributes:
        columns: the cells of every column.
        kept: which columns are shown, in their order; sizes: how wide each is.
        gap: columns between two of them.
        above: which column stands on a line of its own above the others of each row; -1: none.
        said: what its names have in common, said once.
    """

    columns: Sequence[Sequence[str]]
    kept: list[int]
    sizes: list[int]
    gap: int
    above: int = -1
    said: tuple[str, ...] = ()


def laid(table: DataTable, width: int | None) -> Laid:
    """The table as it is, if it fits or nothing limits it; else with as little left out as possible."""
    cells = zip(*table.rows, strict=True) if table.rows else (() for _ in table.columns)
    columns: list[Sequence[str]] = [clean_each(column) for column in cells]
    every = list(range(len(columns)))
    sizes = widths(table, columns)
    if width is None or across(sizes, _GAPS[-1]) <= width:
        return Laid(columns, every, sizes, _gap(sizes, width))
    said: list[str] = []
    for column in table.names:
        columns[column], common = _shortened(columns[column], table.columns[column])
        said += common
    sizes = widths(table, columns)
    kept, spare = list(every), list(table.spare)

    def fits() -> bool:
        return across([sizes[i] for i in kept], _GAPS[-1]) <= width

    while spare and not fits():
        kept.remove(spare.pop())
    above = -1
    if table.names and not fits():
        above = table.names[0]
        kept.remove(above)
    while len(kept) > 1 and not fits():
        kept.pop()
    sizes = [sizes[i] for i in kept]
    return Laid(columns, kept, sizes, _gap(sizes, width), above, tuple(said))


def widths(table: DataTable, columns: Sequence[Sequence[str]]) -> list[int]:
    """Of each column, with its title."""
    return [max(width_of(title), most_of(column)) for title, column in zip(table.columns, columns, strict=True)]


def across(sizes: Sequence[int], gap: int) -> int:
    """Columns that a table takes in a terminal: one more on both sides, and what is between the table's own."""
    return sum(sizes) + gap * (len(sizes) - 1) + 2


def _gap(sizes: Sequence[int], width: int | None) -> int:
    return next((gap for gap in _GAPS if width is None or across(sizes, gap) <= width), _GAPS[-1])


def _shortened(column: Sequence[str], title: str) -> tuple[Sequence[str], list[str]]:
    """Names without what all of them begin and end with, between points; and what that is."""
    names = [cell.split(".") for cell in column if cell]
    different = {tuple(name) for name in names}
    if len(different) < 2:
        return column, []
    most = min(map(len, different)) - 1  # something must be left of the shortest
    before = _alike([name[:most] for name in different])
    behind = _alike([name[::-1][: most - before] for name in different])
    if not before and not behind:
        return column, []
    first = names[0]
    cells = [".".join(words[before : len(words) - behind]) for words in (cell.split(".") for cell in column)]
    return cells, [f"{title}: {'.'.join([*first[:before], '*', *first[len(first) - behind :]])}"]


def _alike(names: Sequence[Sequence[str]]) -> int:
    """With how many equal words they begin."""
    return next((i for i, words in enumerate(zip(*names, strict=False)) if len({*words}) > 1), min(map(len, names)))
