"""One figure of every head as a picture needs it: layers down, heads across."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from math import isfinite, log

from qkvinspect.analysis.columns import BY_KEY, Column
from qkvinspect.analysis.figures import LayerFigures
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Report
from qkvinspect.layouts.packing import Geometry

_WIDE = 30.0


@dataclass(frozen=True, slots=False)
class Grid:
    """Values by layer and head.

    Attributes:
        layers: names as stored in the file: whatever shows them makes them harmless.
        rows: of each layer, the value of each head; None where it cannot be said; empty where heads are not known.
    """

    column: Column
    layers: tuple[str, ...]
    rows: tuple[tuple[float | None, ...], ...]

    @cached_property
    def width(self) -> int:
        """The most heads of any layer."""
        return max(map(len, self.rows), default=0)

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Least and greatest of the scale; that of the finite values there are, unless the column fixes it."""
        if self.column.scale != "values":
            return (0.0, 1.0) if self.column.scale == "share" else (-1.0, 1.0)
        known = [value for row in self.rows for value in row if value is not None and isfinite(value)]
        return (min(known), max(known)) if known else (0.0, 0.0)

    @property
    def logarithmic(self) -> bool:
        """Whether the scale is: where the greatest value would make all others look alike."""
        low, high = self.limits
        return self.column.scale == "values" and 0 < _WIDE * low < high

    def share(self, value: float) -> float:
        """Where a finite value lies on the scale, 0 to 1."""
        low, high = self.limits
        if high == low:
            return 0.0
        return log(value / low) / log(high / low) if self.logarithmic else (value - low) / (high - low)


def grid(column: Column, layers: Iterable[LayerFigures]) -> Grid:
    """A column of an analysis."""
    chosen = tuple(layers)
    return Grid(column, tuple(one.layer for one in chosen), tuple(tuple(map(column.of, one.heads)) for one in chosen))


NORMS = ("q_norm", "k_norm", "v_norm")
"""Columns that need no analysis: a report has them."""


def norms(report: Report, key: str, *, by_query: bool = False) -> Grid:
    """One of NORMS.

    Args:
        by_query: for each head of Q that of the head it uses; else each head of K and V once, as it is stored.
    """
    rows: list[tuple[float | None, ...]] = []
    for attention in report.attentions:
        geometry, part = attention.heads, attention.part(key[0])
        stored = [measure.norm for measure in part.head_measures] if part and geometry is not None else []
        if geometry is not None and by_query:
            rows.append(tuple(_used(stored, geometry, key[0], head) for head in range(geometry.heads("q"))))
        else:
            rows.append(tuple(stored))
    return Grid(BY_KEY[key], tuple(attention.layer for attention in report.attentions), tuple(rows))


def _used(stored: Sequence[float], geometry: Geometry, part: str, query: int) -> float | None:
    whole = query // geometry.subheads.get("q", 1)
    place = geometry.kv_head(whole) if part == "v" else geometry.partner(part, query)
    return stored[place] if place < len(stored) else None
