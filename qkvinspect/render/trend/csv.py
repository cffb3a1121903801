"""Comma-separated values: a row for each value of each series."""

from __future__ import annotations

import csv
from io import StringIO

from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers.csv import harmless
from qkvinspect.scans.trend import Trend

NAME = "csv"


def render(trend: Trend, view: ViewOptions) -> str:
    """In full precision, for a plot elsewhere."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("layer", "part", "head", "column", "step", "value"))
    for line in trend.lines:
        key = line.key
        head = "" if key.head is None else key.head
        for step, value in zip(line.series.steps, line.series.values, strict=True):
            writer.writerow((harmless(key.layer), key.part, head, key.column, step, repr(value)))
    return out.getvalue()
