"""Comma-separated values: a row for each part, or for each head of each part."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from io import StringIO

from qkvinspect.inspection.report import Attention, Measure, Part, Report
from qkvinspect.layouts.packing import span
from qkvinspect.render import account, text
from qkvinspect.render.view import ViewOptions

NAME = "csv"

COLUMNS = (
    "layer",
    "layout",
    "part",
    "head",
    "rows",
    "axis",
    "out_features",
    "in_features",
    "norm",
    "nonfinite",
    "bias_norm",
    "dtype",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "num_heads_from",
)


def render(report: Report, view: ViewOptions) -> str:
    """One line a part; with per_head one line a head; with tensors one line a tensor."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if view.tensors:
        writer.writerow(name.replace(" ", "_") for name in account.TENSOR_COLUMNS)
        writer.writerows([harmless(cell) for cell in cells] for cells in account.tensor_rows(report))
        return out.getvalue()
    writer.writerow(COLUMNS)
    for attention in report.attentions:
        for part in attention.parts:
            for cells in _lines(attention, part, view.per_head and attention.heads is not None):
                writer.writerow(harmless(str(cell)) for cell in cells)
    return out.getvalue()


def _lines(attention: Attention, part: Part, per_head: bool) -> Iterator[Sequence[object]]:
    heads = attention.heads
    layout = attention.layout.id if attention.layout else ""
    sizes = (heads.num_heads, heads.num_kv_heads, heads.width(part.name)) if heads else ("", "", "")
    tail = (part.weight.dtype.name, *sizes, attention.heads_from)
    if not per_head:
        bias = repr(part.bias_measured.norm) if part.bias_measured else ""
        yield attention.layer, layout, part.name, "", *_cells(part.rows, part, part.measured), bias, *tail
        return
    for head, rows in enumerate(part.heads):
        measure = part.head_measures[head] if part.head_measures else None
        yield attention.layer, layout, part.name, head, *_cells((rows,), part, measure), "", *tail


def _cells(rows: Sequence[range], part: Part, measure: Measure | None) -> Sequence[object]:
    spans = " ".join(map(span, rows))
    values = (repr(measure.norm), measure.nonfinite) if measure else ("", "")
    return spans, part.axis, sum(map(len, rows)), part.in_features, *values


def harmless(cell: str) -> str:
    """No control characters, and nothing that a spreadsheet would run as a formula."""
    cell = text.clean(cell)
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell
