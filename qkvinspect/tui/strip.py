"""A stored tensor as a strip of colours: its rows or columns from left to right, with what they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.style import Style
from rich.text import Text

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Attention
from qkvinspect.render import strips
from qkvinspect.render.strips import Band, Strip

_COLOURS = {"q": ("#ffffff", "#0072b2"), "k": ("#101418", "#e69f00"), "v": ("#101418", "#009e73")}
_OTHER, _NOTHING = ("#101418", "#cc79a7"), ("#101418", "#b8bec6")
"""Ink and ground, as in a report."""

_DARKER = 0.82
"""Every other head is so much darker, so that one sees where it ends."""

_NARROWEST = 12
_APART = 2


@dataclass(frozen=True, slots=True)
class ColouredStrips:
    """The strips of a layer, all to one scale."""

    attention: Attention

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        found = strips.strips(self.attention)
        widest = max((strip.size for strip in found), default=1)
        for strip in found:
            width = max(options.max_width * strip.size // max(widest, 1), min(_NARROWEST, options.max_width))
            yield Text(strips.stored(strip), style="dim", overflow="fold")
            yield _bar(strip, width)
            yield _numbers(strip, width)


def _bar(strip: Strip, width: int) -> Text:
    """One line, a column of it the part and head that most of its rows belong to."""
    line = Text(no_wrap=True, overflow="crop")
    label = _labels(strip, width)
    for column in range(width):
        row = (2 * column + 1) * strip.drawn // (2 * width)
        line.append(label[column], _style(_at(strip.bands, row)))
    return line


def _at(bands: Sequence[Band], row: int) -> Band:
    return next(band for band in bands if row < band.stop)


def _style(band: Band) -> Style:
    ink, ground = _COLOURS.get(band.part, _OTHER if band.part else _NOTHING)
    if band.head is not None and band.head % 2:
        red, green, blue = (round(int(ground[place : place + 2], 16) * _DARKER) for place in (1, 3, 5))
        ground = f"#{red:02x}{green:02x}{blue:02x}"
    return Style(color=ink, bgcolor=ground, bold=True)


def _labels(strip: Strip, width: int) -> str:
    """The names of the parts, each in the middle of what is its."""
    shown = [" "] * width
    for run in strip.runs():
        first, last = (place * width // strip.drawn for place in (run.start, run.stop))
        name = strips.title(run.part)
        if len(name) + _APART <= last - first:
            start = (first + last - len(name)) // 2
            shown[start : start + len(name)] = name
    return "".join(shown)


def _numbers(strip: Strip, width: int) -> Text:
    """Where one part ends and another begins, as far as there is room."""
    end = f"{strip.drawn} {strip.axis_name}"
    more = f" of {strip.size}" if strip.drawn < strip.size else ""
    line = "0"
    for run in strip.runs()[:-1]:
        number, place = str(run.stop), run.stop * width // strip.drawn
        start = place - len(number) // 2
        if start > len(line) and start + len(number) + _APART < width - len(end):
            line = f"{line.ljust(start)}{number}"
    return Text(f"{line.ljust(max(width - len(end), len(line) + 1))}{end}{more}", style="dim")
