"""A difference for a terminal, or for a pipe: there nothing is cut or wrapped."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich.text import Text

from qkvinspect.diff.difference import SAME, Difference
from qkvinspect.render import text
from qkvinspect.render.difference import words
from qkvinspect.render.grid import console, grid, stripped
from qkvinspect.render.text import STYLES
from qkvinspect.render.view import View

NAME = "table"


def render(difference: Difference, view: View) -> str:
    """The layers in a table, what was recognised, the parts of what changed, the answer."""
    out = StringIO()
    terminal = console(out, view)
    for line in words.sides(difference):
        terminal.print(Text(line, style="bold"))
    columns = words.layer_columns(difference)
    if difference.layers or difference.added or difference.removed:
        terminal.print()
        terminal.print(grid(columns, words.layer_rows(difference), words.NUMERIC, _style))
    else:
        terminal.print("No attention was found in either.")
    for line in words.happened(difference):
        terminal.print(Text(line, style="bold red"))
    for layer in words.detailed(difference, view):
        terminal.print()
        terminal.print(Text(text.layer(layer.a), style="bold green"))
        terminal.print(Text(f"  {words.stored(layer)}"))
        terminal.print(grid(words.PART_COLUMNS, words.part_rows(layer), words.NUMERIC, _style))
        for line in words.spots(layer):
            terminal.print(Text(f"  {line}"))
        if view.per_head:
            terminal.print(grid(words.HEAD_COLUMNS, words.head_rows(layer), words.NUMERIC, _style))
    terminal.print()
    for line in words.left_out(difference, view):
        terminal.print(line)
    for line in words.others(difference):
        terminal.print(Text(line, style="red"))
    for severity, line in words.remarks(difference):
        terminal.print(Text(f"{severity}: ", style=STYLES[severity]).append(line, style="none"))
    terminal.print(Text(words.verdict(difference), style="bold"))
    return stripped(out)


def _style(cells: Sequence[str]) -> str | None:
    """Red where a row says that something differs."""
    return None if SAME.intersection(cells) else "red"
