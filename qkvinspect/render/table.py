"""Tables for a terminal, or for a pipe: there nothing is cut or wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO

from rich.table import Table
from rich.text import Text

from qkvinspect.render import rows, text
from qkvinspect.render.grid import console, grid, stripped
from qkvinspect.render.view import View
from qkvinspect.report import Report

NAME = "table"


def render(report: Report, view: View) -> str:
    """The whole report."""
    out = StringIO()
    terminal = console(out, view)
    for line in text.summary(report):
        terminal.print(Text(line, style="bold"))
    if not report.attentions:
        terminal.print("No attention was found in it: no tensor has a name that a known layout uses.")
    for attention in report.attentions:
        terminal.print()
        terminal.print(Text(text.layer(attention.layer), style="bold green"))
        facts = (text.layout(attention), text.stored(attention), text.heads(attention))
        terminal.print(Text("  " + "  ".join(facts)))
        if attention.parts:
            terminal.print(_table(rows.PART_COLUMNS, rows.part_rows(attention)))
        if view.per_head and attention.heads:
            terminal.print(_table(rows.head_columns(attention), rows.head_rows(attention)))
    if report.findings:
        terminal.print()
    for finding, message in text.findings(report.findings):
        terminal.print(Text(f"{finding.severity}: ", style=text.STYLES[finding.severity]).append(message, style="none"))
    return stripped(out)


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    """Rows with values that are not finite in red."""
    numeric = {column for column in columns if column.endswith("norm") or column in ("non-finite", "head", "kv head")}
    last = len(columns) - 1

    def style(cells: Sequence[str]) -> str | None:
        return "red" if columns[last] == "non-finite" and cells[last] not in ("0", "-") else None

    return grid(columns, lines, numeric, style)
