"""Colours of a heat map, for readers of all kinds of sight, and numbers that fit its cells."""

from __future__ import annotations

from math import isfinite

from rich.color import Color
from rich.style import Style
from rich.text import Text

from qkvinspect.analysis.grid import Grid
from qkvinspect.render.text import number

_VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_DIVERGING = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))

_LIGHT = 100
"""Of a background, from 0 to 255: black is read on anything lighter."""

_STEPS = 16
"""Colours in the legend."""

NUMBER = 6
"""Columns of a number."""


def style(value: float | None, grid: Grid) -> Style:
    """The cell of a value."""
    if value is None:
        return Style(dim=True)
    if not isfinite(value):
        return Style(color="red", bold=True)
    return _shade(min(max(grid.share(value), 0.0), 1.0), grid)


def _shade(share: float, grid: Grid) -> Style:
    stops = _DIVERGING if grid.column.scale == "cosine" else _VIRIDIS
    place = share * (len(stops) - 1)
    below = min(int(place), len(stops) - 2)
    red, green, blue = (
        round(one + (other - one) * (place - below)) for one, other in zip(stops[below], stops[below + 1], strict=True)
    )
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    ink = "#000000" if light > _LIGHT else "#ffffff"
    return Style(color=ink, bgcolor=Color.from_rgb(red, green, blue))


def short(value: float | None) -> str:
    """A number in NUMBER columns, with as many digits as they hold, three at most."""
    if value is None:
        return "·"
    for digits in (3, 2):
        shown = f"{value:#.{digits}g}".removesuffix(".")
        if len(shown) <= NUMBER:
            return shown
    return f"{value:.1g}"[:NUMBER]


def legend(grid: Grid) -> Text:
    """What is shown, and the colours from the least to the greatest value."""
    low, high = grid.limits
    unit = "" if grid.column.unit in grid.column.title else f", {grid.column.unit}"
    shown = Text.assemble((f"{grid.column.title}{unit}", "bold"), f"   {number(low)} ")
    for step in range(_STEPS):
        shown.append(" ", _shade(step / (_STEPS - 1), grid))
    return shown.append(f" {number(high)}{', logarithmic' if grid.logarithmic else ''}")
