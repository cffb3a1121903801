"""Numbers and ranges of rows in the form of the JSON contract."""

from __future__ import annotations

import math
from collections.abc import Sequence


def row_ranges(rows: Sequence[range]) -> list[list[int]]:
    """Half-open ranges as [start, stop], with the step as a third number where it is not 1."""
    return [[r.start, r.stop] if r.step == 1 else [r.start, r.stop, r.step] for r in rows]


def number(value: float) -> float | str:
    """A float, or "nan", "inf" or "-inf" where JSON has no number for it."""
    return value if math.isfinite(value) else str(value)


def number_or_none(value: float | None) -> float | str | None:
    """The same, where there may be none."""
    return None if value is None else number(value)
