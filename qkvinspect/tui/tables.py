"""Tables of any width: columns that do not fit beside the others come below them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from qkvinspect.render.text import clean

_GAP = 2

_UNSAID = ("", "-")


def shortened(name: str, width: int) -> str:
    """The end of a name that is wider."""
    if cell_len(name) <= width:
        return name
    name = name[-width:]
    while cell_len(name) >= width:
        name = name[1:]
    return f"…{name}"


@dataclass(frozen=True, slots=True)
class Wide:
    """A table whose first column is repeated where the others begin anew. Cells are text, never markup.

    Attributes:
        columns: titles, of several lines if need be.
        right: which columns are flush right.
        bad: which rows stand out.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]
    bad: Sequence[bool] = ()

    def without_empty_columns(self) -> Wide:
        """The same table without the columns, other than the first, that are empty in every row."""
        kept = [
            0,
            *(place for place in range(1, len(self.columns)) if any(row[place] not in _UNSAID for row in self.rows)),
        ]
        rows = [[row[place] for place in kept] for row in self.rows]
        return Wide([self.columns[place] for place in kept], rows, [self.right[place] for place in kept], self.bad)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for place, chosen in enumerate(self._chunks(options.max_width)):
            if place:
                yield Text()
            table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
            for column in (0, *chosen):
                table.add_column(
                    Text(self.columns[column]),
                    justify="right" if self.right[column] else "left",
                    vertical="bottom",
                    overflow="fold",
                )
            for number, row in enumerate(self.rows):
                style = "bold red" if self.bad and self.bad[number] else None
                table.add_row(*(Text(clean(row[column])) for column in (0, *chosen)), style=style)
            yield table

    def _chunks(self, width: int) -> Iterator[list[int]]:
        """The columns of each table, the first left out."""
        widths = [
            max(*(len(line) for line in title.split("\n")), *(cell_len(row[column]) for row in self.rows), 1) + _GAP
            for column, title in enumerate(self.columns)
        ]
        chosen: list[int] = []
        room = width - widths[0]
        for column in range(1, len(self.columns)):
            if chosen and widths[column] - _GAP > room:
                yield chosen
                chosen, room = [], width - widths[0]
            chosen.append(column)
            room -= widths[column]
        yield chosen
