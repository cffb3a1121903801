"""Colours of a heat map, for readers of all kinds of sight, and numbers that fit its cells."""

from __future__ import annotations

from math import isfinite

from rich.color import Color
from rich.style import Style

_VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_DIVERGING = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))

_LIGHT = 128
"""Of a background, from 0 to 255: black is read on anything lighter."""

NUMBER = 6
"""Columns of a number."""


def style(value: float | None, limits: tuple[float, float], *, diverging: bool) -> Style:
    """The cell of a value, on a scale that ends at the limits."""
    if value is None:
        return Style(dim=True)
    if not isfinite(value):
        return Style(color="red", bold=True)
    low, high = limits
    share = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5
    stops = _DIVERGING if diverging else _VIRIDIS
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
        shown = f"{value:.{digits}g}"
        if len(shown) <= NUMBER:
            return shown
    return f"{value:.1g}"[:NUMBER]
