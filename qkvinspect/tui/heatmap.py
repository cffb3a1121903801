"""The layers x heads map: one figure of every head as a coloured cell with its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from qkvinspect.analysis.grid import Grid
from qkvinspect.render.labels import apart
from qkvinspect.tui.colours import NUMBER, short, style
from qkvinspect.tui.tables import shortened

_CELL = NUMBER + 1
_NAME = 28
"""Most columns that a layer's name takes; its end tells more than its beginning."""

_CURSOR = Style(color="#ffffff", bgcolor="#b0008e", bold=True)
"""A colour that no scale has."""


@dataclass
class Moved(Message):
    """Another cell is looked at, or other rows are on the screen."""


@dataclass
class Chosen(Message):
    """A row was chosen, to see all of its layer."""

    row: int


class HeatMap(ScrollView, can_focus=True):
    """Rows of the map stay below its first line, which numbers the heads.

    Attributes:
        row, head: the cell that is looked at.
    """

    BINDINGS = [  # noqa: RUF012
        Binding("up,k", "move(-1, 0)", show=False),
        Binding("down,j", "move(1, 0)", show=False),
        Binding("left,h", "move(0, -1)", show=False),
        Binding("right,l", "move(0, 1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000000, 0)", show=False),
        Binding("end", "move(1000000, 0)", show=False),
        Binding("enter", "choose", "Layer"),
    ]

    def __init__(self) -> None:
        super().__init__(id="cells")
        self.row = self.head = 0
        self._grid: Grid | None = None
        self._heads: Sequence[int] = ()
        self._labels: list[str] = []
        self._left = 0
        self._across = 0

    def fill(self, grid: Grid, heads: Sequence[int]) -> None:
        """Show a grid.

        Args:
            heads: how many cells the rows have whose values are not known.
        """
        self._grid, self._heads = grid, heads
        self._labels = apart(grid.layers)[1]
        self._left = min(max(map(cell_len, (*self._labels, "layer"))), _NAME) + 1
        self.row = max(min(self.row, len(grid.rows) - 1), 0)
        self.head = max(min(self.head, self._width(self.row) - 1), 0)
        self._across = max(map(self._width, range(len(grid.rows))), default=0)
        self.virtual_size = Size(self._left + self._across * _CELL, len(grid.rows) + 1)
        self.refresh()

    @property
    def on_screen(self) -> range:
        """The rows that can be seen."""
        first = round(self.scroll_y)
        return range(first, min(first + max(self.size.height - 1, 0), len(self._heads)))

    @property
    def value(self) -> float | None:
        """Of the cell that is looked at."""
        values = self._grid.rows[self.row] if self._grid and self._grid.rows else ()
        return values[self.head] if self.head < len(values) else None

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        row = round(self.scroll_y) + y - 1
        if self._grid is None or (y and row >= len(self._grid.rows)):
            return Strip.blank(self.size.width, self.rich_style)
        first = round(self.scroll_x / _CELL)
        across = max((self.size.width - self._left) // _CELL, 1)
        base = self.rich_style
        if y == 0:
            segments = [Segment("layer".ljust(self._left), base + Style(dim=True))]
            segments += [
                Segment(f"{head:>{NUMBER}} ", base + Style(dim=True, bold=head == self.head))
                for head in range(first, min(first + across, self._across))
            ]
        else:
            segments = self._cells(row, first, across, base)
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def _cells(self, row: int, first: int, across: int, base: Style) -> list[Segment]:
        assert self._grid is not None
        here = row == self.row
        segments = [Segment(self._label(row), base + Style(bold=here))]
        values = self._grid.rows[row] or (None,) * self._heads[row]
        for head in range(first, min(first + across, len(values))):
            shown = f"{short(values[head]):>{NUMBER}}"
            if here and head == self.head:
                marked = f"[{short(values[head])}]".rjust(_CELL)
                segments.append(Segment(marked if len(marked) == _CELL else f"{shown}<", base + _CURSOR))
            else:
                colours = style(values[head], self._grid)
                segments.append(Segment(f"{shown} ", base + colours))
        if not values:
            segments.append(Segment("heads unknown", base + Style(dim=True)))
        return segments

    def _label(self, row: int) -> str:
        return set_cell_size(shortened(self._labels[row], self._left - 1), self._left)

    def _width(self, row: int) -> int:
        if self._grid is None or row >= len(self._grid.rows):
            return 0
        return len(self._grid.rows[row]) or self._heads[row]

    def look_at(self, row: int, head: int) -> None:
        """Move to a cell, or to the nearest one that there is."""
        if not self._heads:
            return
        self.row = max(min(row, len(self._heads) - 1), 0)
        self.head = max(min(head, self._width(self.row) - 1), 0)
        cell = Region(self._left + self.head * _CELL, self.row + 1, _CELL, 1)
        top, left = round(self.scroll_y), round(self.scroll_x)
        if self.row < top:
            top = self.row
        elif self.row > top + self.size.height - 2:
            top = self.row - self.size.height + 2
        if cell.x - self._left < left:
            left = cell.x - self._left
        elif cell.right > left + self.size.width:
            left = -(-(cell.right - self.size.width) // _CELL) * _CELL
        self.scroll_to(left, top, animate=False)
        self.refresh()
        self.post_message(Moved())

    def action_move(self, down: int, right: int) -> None:
        """Move the cursor."""
        self.look_at(self.row + down, self.head + right)

    def action_page(self, pages: int) -> None:
        """Move the cursor by a screen."""
        self.look_at(self.row + pages * max(self.size.height - 2, 1), self.head)

    def action_choose(self) -> None:
        """Look at the layer of the cursor."""
        if self._heads:
            self.post_message(Chosen(self.row))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Other rows are to be read."""
        super().watch_scroll_y(old_value, new_value)
        self.post_message(Moved())

    def on_click(self, event: events.Click) -> None:
        """Look at the cell under the mouse."""
        head = (event.x - self._left) // _CELL + round(self.scroll_x / _CELL)
        if event.y:
            self.look_at(round(self.scroll_y) + event.y - 1, head)
