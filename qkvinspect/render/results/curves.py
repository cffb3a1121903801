"""Curves in the terminal, of dots: a chart for each part, a curve for each layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.render import text
from qkvinspect.render.document import Chapter, CodeBlock
from qkvinspect.scans.rows import HEAD
from qkvinspect.scans.series import Key, Series
from qkvinspect.scans.trend import Line, Trend

_HIGH, _WIDE = 10, 72
"""Characters of a chart; each has 4 by 2 dots."""

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Of the Braille patterns, by row and column (Unicode 15, block U+2800)."""


def charts(trend: Trend, width: int | None) -> Iterator[Chapter]:
    """Every figure and part.

    Args:
        width: of the terminal; None where there is none.
    """
    wide = _WIDE if width is None else max(min(width - 12, 160), 16)
    for column in trend.columns:
        lines = trend.of(column)
        for part in dict.fromkeys(line.key.part for line in lines):
            some = [line for line in lines if line.key.part == part]
            title = f"{column.replace('_', ' ')} of {part.upper() if len(part) == 1 else part_name(some[0].key)}"
            chart = CodeBlock(tuple(_chart(some, wide)), indent=0)
            yield Chapter(title, (chart,), f": {text.count(len(some), 'curve')}")


def _chart(lines: Sequence[Line], wide: int) -> Iterator[str]:
    low, high = min(line.least for line in lines), max(line.greatest for line in lines)
    first, last = min(line.series.steps[0] for line in lines), max(line.series.steps[-1] for line in lines)
    dots = [[0] * wide for _ in range(_HIGH)]
    for line in lines:
        before: tuple[int, int] | None = None
        for x, value in enumerate(buckets(line.series, 2 * wide, first, last)):
            if value is None:
                continue
            y = round((high - value) / (high - low) * (4 * _HIGH - 1)) if high > low else 2 * _HIGH
            for across, down in _between(before or (x, y), (x, y)):
                dots[down // 4][across // 2] |= _DOTS[down % 4][across % 2]
            before = x, y
    for number, row in enumerate(dots):
        label = text.number(high) if not number else text.number(low) if number == _HIGH - 1 else ""
        yield f"{label:>9} │{''.join(chr(0x2800 + cell) for cell in row)}"
    yield f"{'':9} └{'─' * wide}"
    yield f"{'':11}{first}{last:>{max(wide - len(str(first)), 1)}}"


def _between(a: tuple[int, int], b: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The dots of a straight line."""
    count = max(b[0] - a[0], abs(b[1] - a[1]), 1)
    for i in range(count + 1):
        yield round(a[0] + (b[0] - a[0]) * i / count), round(a[1] + (b[1] - a[1]) * i / count)


def part_name(key: Key) -> str:
    """Which rows of the layer."""
    if key.head is not None:
        return f"head {key.head}" if key.part == HEAD else f"{key.part.upper()} head {key.head}"
    return "greatest head" if key.part == HEAD else key.part.upper()


def buckets(series: Series, count: int, first: int, last: int) -> list[float | None]:
    """Of each of so many equal stretches of steps, the value farthest from the one before; None: no checkpoint."""
    found: list[float | None] = [None] * count
    before = series.values[0]
    for step, value in zip(series.steps, series.values, strict=True):
        place = min((step - first) * count // max(last - first, 1), count - 1)
        old = found[place]
        if old is None:
            before = found[place - 1] if place and found[place - 1] is not None else before
        if old is None or abs(value - (before or 0.0)) > abs(old - (before or 0.0)):
            found[place] = value
    return found
