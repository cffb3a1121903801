"""A figure of every head as a picture in the terminal: layers down, heads across, a digit each, colour behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite

from qkvinspect.analysis.grid import Grid
from qkvinspect.render import text
from qkvinspect.render.labels import apart
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers.page import Page

_VALUES = (17, 54, 60, 66, 72, 78, 114, 149, 191, 227)
"""Of the 256 colours, from dark blue to light yellow, each lighter than the one before: also without colour vision."""

_POSITIVE = (231, 224, 217, 216, 210, 209, 203, 167, 160, 124)
_NEGATIVE = (231, 195, 189, 153, 117, 111, 75, 69, 33, 26)
_BRIGHT = frozenset({*_VALUES[4:], *_POSITIVE[:7], *_NEGATIVE[:7]})
"""Colours on which black is read more easily than white."""

_FEWEST = 8  # heads in a row, however narrow the terminal


def render(grid: Grid, view: ViewOptions) -> str:
    """The whole picture; heads that do not fit into a line go on in a block of their own."""
    page = Page(view)
    if not any(grid.rows):
        page.line(("There is nothing to draw: no layer whose heads are known.", ""))
        return str(page)
    page.line((grid.column.title, "bold"), (f" by layer and head: {_legend(grid)}", ""))
    place, labels = apart(grid.layers)
    if place:
        page.line((f"layers {place}", "dim"))
    across = max(map(len, labels), default=0)
    cell = 3 if grid.column.scale == "cosine" else 2
    room = grid.width if view.width is None else max((view.width - across - 2) // cell, _FEWEST)
    for first in range(0, grid.width, room):
        heads = range(first, min(first + room, grid.width))
        page.line((f"{'':{across}} {_ruler(heads, cell)}", "dim"))
        for label, row in zip(labels, grid.rows, strict=True):
            if row or not first:
                page.raw(f"{label:{across}} {''.join(_cells(grid, row, heads, cell, view.colour))}")
    return str(page)


def _legend(grid: Grid) -> str:
    if grid.column.scale == "cosine":
        return "9 for 1, -9 for -1, 0 for 0"
    low, high = grid.limits
    if high == low:
        return f"all {text.number(low)}"
    return f"0 for {text.number(low)}, 9 for {text.number(high)}{', logarithmic' if grid.logarithmic else ''}"


def _ruler(heads: range, cell: int) -> str:
    """The numbers of every fifth head, above it."""
    marks = (f"{head:<{5 * cell}}" for head in heads[::5])
    return f"{' ' * (cell - 2)}{''.join(marks)}"


def _cells(grid: Grid, row: Sequence[float | None], heads: range, cell: int, colour: bool) -> Iterator[str]:
    if not row:
        yield "-"
        return
    signed = grid.column.scale == "cosine"
    for head in heads[: max(len(row) - heads.start, 0)]:
        value = row[head]
        if value is None or not isfinite(value):
            yield f"{'.' if value is None else '!':>{cell - 1}} "
            continue
        step = min(int((abs(value) if signed else grid.share(value)) * 10), 9)
        shown = f"{'-' if signed and value < 0 and step else ''}{step}"
        palette = _VALUES if not signed else _POSITIVE if value >= 0 else _NEGATIVE
        yield _painted(f"{shown:>{cell - 1}} ", palette[step]) if colour else f"{shown:>{cell - 1}} "


def _painted(shown: str, colour: int) -> str:
    return f"\x1b[38;5;{16 if colour in _BRIGHT else 231};48;5;{colour}m{shown}\x1b[0m"
