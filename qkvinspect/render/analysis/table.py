"""Tables for a terminal, or for a pipe: there nothing is cut or wrapped."""

from __future__ import annotations

from qkvinspect.analysis import Analysis
from qkvinspect.render import text
from qkvinspect.render.analysis import rows
from qkvinspect.render.document import STYLES
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers.page import Page

NAME = "table"


def render(analysis: Analysis, view: ViewOptions) -> str:
    """The figures of each layer, or of the heads that rank first, or the values."""
    page = Page(view)
    for line in text.summary(analysis.report):
        page.line((line, "bold"))
    if not analysis.report.attentions:
        page.line(("No attention was found in it: no tensor has a name that a known layout uses.", ""))
    elif analysis.values:
        _values(page, analysis, view)
    elif analysis.sort is not None:
        _ranked(page, analysis)
    else:
        _figures(page, analysis)
    if analysis.report.findings:
        page.line()
    for finding, message in text.findings(analysis.report.findings):
        page.line((f"{finding.severity}: ", STYLES[finding.severity]), (message, ""))
    return str(page)


def _figures(page: Page, analysis: Analysis) -> None:
    page.line((rows.LEGEND, "dim"))
    most = rows.most(analysis)
    for layer in analysis.layers:
        page.line()
        page.line((text.layer(layer.layer), "bold green"))
        page.line((f"  {rows.facts(layer)}", ""))
        if layer.heads:
            columns = rows.columns(analysis)
            page.table(columns, _right(columns), (rows.cells(analysis, head, most) for head in layer.heads), _no)


def _ranked(page: Page, analysis: Analysis) -> None:
    page.line((rows.LEGEND, "dim"))
    columns = ("layer", *rows.columns(analysis))
    most = rows.most(analysis)
    found = ((layer.layer, *rows.cells(analysis, head, most)) for layer, head in analysis.ranked())
    page.line()
    page.table(columns, _right(columns), found, _no)


def _values(page: Page, analysis: Analysis, view: ViewOptions) -> None:
    for attention, found in zip(analysis.report.attentions, analysis.values, strict=True):
        page.line()
        page.line((text.layer(attention.layer), "bold green"))
        if not found:
            page.line((f"  no values: {attention.dtype} has none without its scale", ""))
            continue
        right = [column not in ("part", "histogram") for column in rows.VALUE_COLUMNS]
        page.table(rows.VALUE_COLUMNS, right, rows.value_cells(found, view.per_head), _no)


def _right(columns: tuple[str, ...]) -> list[bool]:
    return [column not in ("layer", "") for column in columns]


def _no(cells: object) -> bool:
    return False
