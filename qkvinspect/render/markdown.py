"""Tables in GitHub's Markdown, for an issue or a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from qkvinspect.inspection.report import Report
from qkvinspect.render import account, rows, text
from qkvinspect.render.view import ViewOptions

NAME = "markdown"

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&@])")


def render(report: Report, view: ViewOptions) -> str:
    """The whole report."""
    return "\n".join(_lines(report, view)) + "\n"


def _lines(report: Report, view: ViewOptions) -> Iterator[str]:
    first, *others = text.summary(report)
    yield f"**{escape(first)}**"
    yield from (f"\n{escape(line)}" for line in others)
    if view.tensors:
        yield ""
        yield from table(account.TENSOR_COLUMNS, account.tensor_rows(report))
        return
    if not report.attentions:
        first, *others = account.nothing_found(report)
        yield f"\n{escape(first)}\n"
        yield from (f"    {line.strip()}" for line in others[1:])
    for attention in report.attentions:
        yield f"\n### {escape(text.layer(attention.layer))}\n"
        yield escape(" · ".join((text.layout(attention), text.stored(attention), text.heads(attention)))) + "\n"
        yield from table(rows.PART_COLUMNS, rows.part_rows(attention))
        if view.per_head and attention.heads:
            yield ""
            yield from table(rows.head_columns(attention), rows.head_rows(attention))
    if report.findings:
        yield ""
    for finding, message in text.findings(report.findings):
        yield f"- **{finding.severity}** {escape(message)}"
    said, *rest = list(account.closing(report)) or [""]
    if said:
        yield f"\n{escape(said)}\n"
        yield from (f"    {line.strip()}" for line in rest[1:])


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + " --- |" * len(columns)
    for cells in lines:
        yield "| " + " | ".join(map(escape, cells)) + " |"


def escape(value: str) -> str:
    """Text that Markdown and HTML show as it is."""
    return _SPECIAL.sub(r"\\\1", text.clean(value))
