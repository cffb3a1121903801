"""What all tables for a terminal share: a console that cuts nothing in a pipe, and one look."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qkvinspect.render import text
from qkvinspect.render.view import View

_PIPE_WIDTH = 100_000


def console(out: StringIO, view: View) -> Console:
    """A console that writes to ``out``."""
    return Console(
        file=out,
        width=view.width or _PIPE_WIDTH,
        force_terminal=view.colour,
        color_system="standard" if view.colour else None,
        no_color=not view.colour,
        highlight=False,
        soft_wrap=view.width is None,
    )


def grid(
    columns: Sequence[str],
    lines: Iterable[Sequence[str]],
    numeric: Collection[str],
    style: Callable[[Sequence[str]], str | None],
) -> Table:
    """A table whose text can do nothing.

    Args:
        numeric: the columns that stand on the right.
        style: of a row, by its cells.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=True, header_style="dim", show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    for cells in lines:
        table.add_row(*(Text(text.clean(cell)) for cell in cells), style=style(cells))
    return table


def stripped(out: StringIO) -> str:
    """What was written, without spaces at the ends of lines."""
    return "\n".join(line.rstrip() for line in out.getvalue().split("\n"))
