"""``trend``: how figures move over a run, as rows or as curves, and what was found in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.render import text
from qkvinspect.render.document import (
    Block,
    Cell,
    Chapter,
    Conclusion,
    DataTable,
    Document,
    Items,
    Remark,
    TextLine,
    Title,
)
from qkvinspect.render.results.curves import buckets, charts, part_name
from qkvinspect.render.spark import block
from qkvinspect.render.view import ViewOptions
from qkvinspect.scans.series import Series
from qkvinspect.scans.trend import Line as Curve
from qkvinspect.scans.trend import Trend

COLUMNS = ("layer", "part", "first", "last", "min", "max", "per 1000 steps", "")

_SPARE = tuple(map(COLUMNS.index, ("", "per 1000 steps", "max", "min")))

_WIDE = 24


def document(trend: Trend, *, drawn: ViewOptions | None = None) -> Document:
    """A trend.

    Args:
        drawn: with curves that fit this view in place of tables.
    """
    return Document(
        "trend",
        blocks=lambda: _blocks(trend, drawn),
        records=lambda: _records(trend),
        data=trend.to_dict,
    )


def _blocks(trend: Trend, drawn: ViewOptions | None) -> Iterator[Block]:
    yield Title(summary(trend))
    if drawn is not None:
        yield from charts(trend, drawn.width)
    else:
        yield from (_table(trend, column) for column in trend.columns)
    yield TextLine("")
    found = text.findings(trend.findings)
    yield Items(tuple(Remark(finding.severity, message, finding.code) for finding, message in found), lead=True)
    yield Conclusion(verdict(trend))


def _table(trend: Trend, column: str) -> Chapter:
    right = tuple(column not in ("layer", "part", "") for column in COLUMNS)
    rows = tuple(map(_cells, trend.of(column)))
    return Chapter(column.replace("_", " "), (DataTable(COLUMNS, rows, right, spare=_SPARE, names=(0,)),))


def _records(trend: Trend) -> Iterator[Sequence[Cell]]:
    """One a value of each series, for a plot elsewhere."""
    yield "layer", "part", "head", "column", "step", "value"
    for line in trend.lines:
        key = line.key
        for step, value in zip(line.series.steps, line.series.values, strict=True):
            yield key.layer, key.part, key.head, key.column, step, value


def summary(trend: Trend) -> str:
    """The run in one line."""
    steps = trend.run.steps
    layers = text.count(len(trend.run.layers), "layer")
    return f"{text.count(len(steps), 'checkpoint')}, steps {min(steps)} to {max(steps)}, {layers}"


def _cells(line: Curve) -> tuple[str, ...]:
    """Under COLUMNS."""
    figures = (line.first, line.last, line.least, line.greatest, line.slope)
    return (text.layer(line.key.layer), part_name(line.key), *map(text.number, figures), _spark(line.series))


def verdict(trend: Trend) -> str:
    """What was found, counted."""
    counts = [sum(f.severity == severity for f in trend.findings) for severity in ("error", "warning")]
    return f"{text.count(counts[0], 'error')}, {text.count(counts[1], 'warning')}"


def _spark(series: Series) -> str:
    """The curve, from its least to its greatest value."""
    return "".join(map(block, _shares(series, _WIDE)))


def _shares(series: Series, count: int) -> Iterator[float]:
    low, high = min(series.values), max(series.values)
    for value in buckets(series, min(count, len(series.steps)), series.steps[0], series.steps[-1]):
        if value is not None:
            yield (value - low) / (high - low) if high > low else 0.0
