"""A trend in GitHub's Markdown: a comment on a run."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.render import text
from qkvinspect.render.trend import rows
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers.markdown import escape, table
from qkvinspect.scans.trend import Trend

NAME = "markdown"


def render(trend: Trend, view: ViewOptions) -> str:
    """Findings first."""
    return "\n".join(_lines(trend)) + "\n"


def _lines(trend: Trend) -> Iterator[str]:
    yield f"**{escape(rows.summary(trend))}: {rows.verdict(trend)}**\n"
    for finding, message in text.findings(trend.findings):
        yield f"- **{finding.severity}** `{finding.code}` {escape(message)}"
    for column in trend.columns:
        yield f"\n### {escape(column.replace('_', ' '))}\n"
        yield from table(rows.COLUMNS, map(rows.cells, trend.of(column)))
