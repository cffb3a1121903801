"""Curves one line high, of block characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"


def spark(values: Sequence[float], width: int) -> str:
    """A curve from the least to the greatest of the values, at most ``width`` characters long.

    Of values that share a character, the one farthest from their middle is drawn, so that no peak is lost; those
    that are not finite are left blank.
    """
    known = values if all(map(math.isfinite, values)) else [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    ordered = sorted(known)
    low, middle, high = ordered[0], ordered[len(known) // 2], ordered[-1]
    count = min(width, len(values))
    shown = ""
    for number in range(count):
        run = values[number * len(values) // count : (number + 1) * len(values) // count]
        some = run if len(known) == len(values) else [value for value in run if math.isfinite(value)]
        if not some:
            shown += " "
            continue
        ends = min(some), max(some)
        if middle - ends[0] == ends[1] - middle:
            ends = [next(value for value in some if value in ends)]
        farthest = max(ends, key=lambda value: abs(value - middle))
        shown += block((farthest - low) / (high - low) if high > low else 0.0)
    return shown


def block(share: float) -> str:
    """The character for a value between 0, the least, and 1, the greatest."""
    return BLOCKS[min(int(share * len(BLOCKS)), len(BLOCKS) - 1)]
