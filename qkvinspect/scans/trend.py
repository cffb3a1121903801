"""Summarise how the figures of a run change: a line for each layer and part, and findings."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qkvinspect.errors import UsageError
from qkvinspect.findings import Finding
from qkvinspect.scans.rows import HEAD
from qkvinspect.scans.series import Key, Series, TrainingRun
from qkvinspect.scans.watch import findings

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Line:
    """One series, summed up.

    Attributes:
        slope: of the least squares line, per 1,000 steps.
    """

    series: Series

    @property
    def key(self) -> Key:
        return self.series.key

    @property
    def first(self) -> float:
        return self.series.values[0]

    @property
    def last(self) -> float:
        return self.series.values[-1]

    @property
    def least(self) -> float:
        return min(self.series.values)

    @property
    def greatest(self) -> float:
        return max(self.series.values)

    @property
    def slope(self) -> float:
        steps, values = self.series.steps, self.series.values
        middle = sum(steps) / len(steps)
        spread = sum((step - middle) ** 2 for step in steps)
        return 1000 * sum((s - middle) * v for s, v in zip(steps, values, strict=True)) / spread if spread else 0.0

    def to_dict(self) -> dict[str, object]:
        """Its form in the JSON contract: see trend.schema.json."""
        key, series = self.key, self.series
        return {
            "layer": key.layer,
            "part": key.part,
            "head": key.head,
            "column": key.column,
            "count": len(series.steps),
            "first": self.first,
            "last": self.last,
            "min": self.least,
            "max": self.greatest,
            "slope_per_1000_steps": self.slope,
            "steps": list(series.steps),
            "values": list(series.values),
        }


@dataclass(frozen=True, slots=True)
class Trend:
    """All that ``trend`` prints.

    Attributes:
        lines: of whole parts; of a figure that only heads have, the greatest of a layer's heads; or of each head.
    """

    run: TrainingRun
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    findings: tuple[Finding, ...]

    def of(self, column: str) -> list[Line]:
        return [line for line in self.lines if line.key.column == column]

    @property
    def failed(self) -> bool:
        """Whether anything is a warning, or worse."""
        return any(finding.severity != "info" for finding in self.findings)

    def to_dict(self) -> dict[str, object]:
        """The JSON contract: see trend.schema.json."""
        steps = self.run.steps
        return {
            "schema_version": SCHEMA_VERSION,
            "checkpoints": len(steps),
            "first_step": min(steps),
            "last_step": max(steps),
            "columns": list(self.columns),
            "series": [line.to_dict() for line in self.lines],
            "findings": [finding.to_dict() for finding in self.findings],
        }


def trend(run: TrainingRun, columns: Sequence[str] = (), *, per_head: bool = False) -> Trend:
    """Sum up a run.

    Args:
        columns: figures to show; all that there are, if none is named. Findings are of all.

    Raises:
        UsageError: the rows have no such figure.
    """
    there = run.columns
    for column in columns:
        if column not in there:
            raise UsageError(f"the rows have no column {column!r}", found=", ".join(there) or "none")
    chosen = tuple(columns) or tuple(there)
    lines = tuple(Line(series) for column in chosen for series in _series(run, column, per_head=per_head))
    return Trend(run, chosen, lines, tuple(findings(run)))


def _series(run: TrainingRun, column: str, *, per_head: bool) -> Iterator[Series]:
    whole = [] if per_head else list(run.of(column, heads=False))
    if whole or per_head:
        yield from whole or run.of(column, heads=True)
        return
    layers: dict[str, dict[int, float]] = {}
    for series in run.of(column, heads=True):
        most = layers.setdefault(series.key.layer, {})
        for step, value in zip(series.steps, series.values, strict=True):
            most[step] = max(value, most.get(step, value))
    for layer, most in layers.items():
        steps = sorted(most)
        yield Series(Key(layer, HEAD, None, column), array("q", steps), array("d", (most[step] for step in steps)))
