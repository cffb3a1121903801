"""Comma-separated values: a row for each head with every figure, or for each part with its values."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO

from qkvinspect.analysis import COLUMNS, Analysis
from qkvinspect.analysis.values import QUANTILES
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers.csv import harmless

NAME = "csv"

_VALUES = ("count", "num_bytes", "nonfinite", "mean", "std", "least", "greatest", "zeros")


def render(analysis: Analysis, view: ViewOptions) -> str:
    """Figures in full precision; an empty cell is what cannot be said."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in _values(analysis) if analysis.values else _figures(analysis):
        writer.writerow(harmless(cell) if isinstance(cell, str) else cell for cell in row)
    return out.getvalue()


def _figures(analysis: Analysis) -> Iterator[list[object]]:
    others = ["similar_qk_head", "similar_ov_head"]
    yield ["layer", "head", "kv_head", *(column.key for column in COLUMNS), *others]
    for layer, head in analysis.ranked():
        figures = (column.of(head) for column in COLUMNS)
        similar = (one.head if one else "" for one in (head.similar_qk, head.similar_ov))
        yield [layer.layer, head.head, head.kv_head, *("" if f is None else f for f in figures), *similar]


def _values(analysis: Analysis) -> Iterator[list[object]]:
    yield ["layer", "part", "head", *_VALUES, *(f"quantile_{share:g}" for share in QUANTILES)]
    for attention, found in zip(analysis.report.attentions, analysis.values, strict=True):
        for one in found:
            figures = (getattr(one, name) for name in _VALUES)
            yield [attention.layer, one.part, "" if one.head is None else one.head, *figures, *one.quantiles]
