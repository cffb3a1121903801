"""A trend for a terminal, or for a pipe: there nothing is cut or wrapped."""

from __future__ import annotations

from qkvinspect.render import text
from qkvinspect.render.document import STYLES
from qkvinspect.render.trend import rows
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers.page import Page
from qkvinspect.scans.trend import Trend

NAME = "table"


def render(trend: Trend, view: ViewOptions) -> str:
    """A table for each figure, and the findings."""
    page = Page(view)
    page.line((rows.summary(trend), "bold"))
    right = [column not in ("layer", "part", "") for column in rows.COLUMNS]
    for column in trend.columns:
        page.line()
        page.line((column.replace("_", " "), "bold green"))
        page.table(rows.COLUMNS, right, map(rows.cells, trend.of(column)), lambda _: False)
    end(page, trend)
    return str(page)


def end(page: Page, trend: Trend) -> None:
    """What was found."""
    page.line()
    for finding, message in text.findings(trend.findings):
        page.line((f"{finding.severity}: ", STYLES[finding.severity]), (f"{finding.code}  ", "dim"), (message, ""))
    page.line((rows.verdict(trend), "bold"))
