"""Tables for a terminal, or for a pipe: there nothing is cut or wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qkvinspect.render import rows, text
from qkvinspect.render.view import View
from qkvinspect.report import Report

NAME = "table"

_PIPE_WIDTH = 100_000


def render(report: Report, view: View) -> str:
    """The whole report."""
    out = StringIO()
    console = Console(
        file=out,
        width=view.width or _PIPE_WIDTH,
        force_terminal=view.colour,
        color_system="standard" if view.colour else None,
        no_color=not view.colour,
        highlight=False,
        soft_wrap=view.width is None,
    )
    for line in text.summary(report):
        console.print(Text(line, style="bold"))
    if not report.attentions:
        console.print("No attention was found in it: no tensor has a name that a known layout uses.")
    for attention in report.attentions:
        console.print()
        console.print(Text(text.layer(attention.layer), style="bold green"))
        facts = (text.layout(attention), text.stored(attention), text.heads(attention))
        console.print(Text("  " + "  ".join(facts)))
        if attention.parts:
            console.print(_table(rows.PART_COLUMNS, rows.part_rows(attention)))
        if view.per_head and attention.heads:
            console.print(_table(rows.head_columns(attention), rows.head_rows(attention)))
    if report.findings:
        console.print()
    for finding, message in text.findings(report.findings):
        console.print(Text(f"{finding.severity}: ", style=text.STYLES[finding.severity]).append(message, style="none"))
    return "\n".join(line.rstrip() for line in out.getvalue().split("\n"))


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=True, header_style="dim", show_edge=False)
    for column in columns:
        numeric = column.endswith("norm") or column in ("non-finite", "head", "kv head")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    last = len(columns) - 1
    for cells in lines:
        bad = columns[last] == "non-finite" and cells[last] not in ("0", "-")
        table.add_row(*(Text(text.clean(cell)) for cell in cells), style="red" if bad else None)
    return table
