"""Tables in a terminal that is too narrow for them: shorter names, names on lines of their own, fewer columns."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.render.document import DataTable
from qkvinspect.render.text import clean
from qkvinspect.render.writers.wrapping import width_of

_GAPS = (3, 2)
"""Columns between those of a table: what looks best, and what will do."""


@dataclass(frozen=True, slots=True)
class Laid:
    """A table that fits.

    Attributes:
        kept: which columns are shown, in their order; sizes: how wide each is.
        gap: columns between two of them.
        above: which column stands on a line of its own above the others of each row; -1: none.
        said: what its names have in common, said once.
    """

    cells: Sequence[Sequence[str]]
    kept: list[int]
    sizes: list[int]
    gap: int
    above: int = -1
    said: tuple[str, ...] = ()


def laid(table: DataTable, width: int | None) -> Laid:
    """The table as it is, if it fits or nothing limits it; else with as little left out as possible."""
    cleaned = [_clean(row) for row in table.rows]
    every = list(range(len(table.columns)))
    sizes = widths(table, cleaned, every)
    if width is None or across(sizes, _GAPS[-1]) <= width:
        return Laid(cleaned, every, sizes, _gap(sizes, width))
    cells = [list(row) for row in cleaned]
    said: list[str] = []
    for column in table.names:
        said += _shorten(cells, column, table.columns[column])
    kept, spare = list(every), list(table.spare)
    while spare and not fits(table, cells, kept, width):
        kept.remove(spare.pop())
    above = -1
    if table.names and not fits(table, cells, kept, width):
        above = table.names[0]
        kept.remove(above)
    while len(kept) > 1 and not fits(table, cells, kept, width):
        kept.pop()
    sizes = widths(table, cells, kept)
    return Laid(cells, kept, sizes, _gap(sizes, width), above, tuple(said))


def _clean(row: Sequence[str]) -> Sequence[str]:
    """The row itself where nothing in it is to be replaced: a hundred thousand need no copy."""
    cells = [clean(cell) for cell in row]
    return row if all(one is other for one, other in zip(cells, row, strict=True)) else cells


def widths(table: DataTable, cells: Sequence[Sequence[str]], kept: Sequence[int]) -> list[int]:
    """Of each column, with its title."""
    return [max(width_of(table.columns[i]), max(map(width_of, [row[i] for row in cells]), default=0)) for i in kept]


def across(sizes: Sequence[int], gap: int) -> int:
    """Columns that a table takes in a terminal: one more on both sides, and what is between the table's own."""
    return sum(sizes) + gap * (len(sizes) - 1) + 2


def fits(table: DataTable, cells: Sequence[Sequence[str]], kept: Sequence[int], width: int) -> bool:
    """Whether it does with the smallest gaps."""
    return across(widths(table, cells, kept), _GAPS[-1]) <= width


def _gap(sizes: Sequence[int], width: int | None) -> int:
    return next((gap for gap in _GAPS if width is None or across(sizes, gap) <= width), _GAPS[-1])


def _shorten(cells: Sequence[list[str]], column: int, title: str) -> list[str]:
    """Names without what all of them begin and end with, between points; and what that is."""
    names = [row[column].split(".") for row in cells if row[column]]
    different = {tuple(name) for name in names}
    if len(different) < 2:
        return []
    most = min(map(len, different)) - 1  # something must be left of the shortest
    before = _alike([name[:most] for name in different])
    behind = _alike([name[::-1][: most - before] for name in different])
    if not before and not behind:
        return []
    first = names[0]
    for row in cells:
        if row[column]:
            words = row[column].split(".")
            row[column] = ".".join(words[before : len(words) - behind])
    return [f"{title}: {'.'.join([*first[:before], '*', *first[len(first) - behind :]])}"]


def _alike(names: Sequence[Sequence[str]]) -> int:
    """With how many equal words they begin."""
    return next((i for i, words in enumerate(zip(*names, strict=False)) if len({*words}) > 1), min(map(len, names)))
