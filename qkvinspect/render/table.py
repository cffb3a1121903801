"""Tables for a terminal, or for a pipe: there nothing is cut or wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qkvinspect.inspection.report import Report
from qkvinspect.render import account, rows, text
from qkvinspect.render.page import Page
from qkvinspect.render.view import ViewOptions

NAME = "table"


def render(report: Report, view: ViewOptions) -> str:
    """The whole report."""
    page = Page(view)
    for line in text.summary(report):
        page.line((line, "bold"))
    if view.tensors:
        page.line()
        _table(page, account.TENSOR_COLUMNS, account.tensor_rows(report))
        return str(page)
    if not report.attentions:
        for line in account.nothing_found(report):
            page.line((line, ""))
    for attention in report.attentions:
        page.line()
        page.line((text.layer(attention.layer), "bold green"))
        facts = (text.layout(attention), text.stored(attention), text.heads(attention))
        page.line(("  " + "  ".join(facts), ""))
        if attention.parts:
            _table(page, rows.PART_COLUMNS, rows.part_rows(attention))
        if view.per_head and attention.heads:
            _table(page, rows.head_columns(attention), rows.head_rows(attention))
    if report.findings:
        page.line()
    for finding, message in text.findings(report.findings):
        page.line((f"{finding.severity}: ", text.STYLES[finding.severity]), (message, ""))
    for line in account.closing(report):
        page.line((line, ""))
    return str(page)


def _table(page: Page, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    right = [column.endswith("norm") or column in ("non-finite", "head", "kv head", "rank") for column in columns]
    page.table(columns, right, lines, lambda cells: columns[-1] == "non-finite" and cells[-1] not in ("0", "-"))
