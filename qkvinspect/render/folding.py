"""Show many rows in few lines: neighbouring rows are joined into one that has the range of their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qkvinspect.render import text

FEWEST = 6
"""Rows that a table has in any case: fewer would not show how its numbers run."""


def rooms(sizes: Sequence[int], lines: int) -> int:
    """Rows that each of several tables may have, so that all of them have about so many lines."""
    for number, size in enumerate(sorted(sizes)):
        share = max(lines // (len(sizes) - number), FEWEST)
        if size > share:
            return share
        lines -= size
    return max(sizes, default=0)


def label(labels: Sequence[str]) -> str:
    """The first and the last of neighbours."""
    return labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"


def span(values: Sequence[float]) -> str:
    """``6.21..9.11``; a single number in full; nan is said beside the others."""
    if not values:
        return "-"
    if len(values) == 1:
        return text.number(values[0])
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "nan"
    low, high = f"{min(known):.3g}", f"{max(known):.3g}"
    return "nan, " * (len(known) < len(values)) + (low if low == high else f"{low}..{high}")
