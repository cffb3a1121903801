"""qkvinspect layouts"""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from qkvinspect.cli import options


def layouts(
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One layout in full.", show_default=False)] = None,
    format: Annotated[Literal["table", "json"], typer.Option("--format", "-f", help="How to print it.")] = "table",
) -> None:
    """List every known way of storing Q, K and V, and how it is known.

    Each row tells which tensors a library stores, how their rows are packed, and what tells it from its
    lookalikes. One ID shows the row in full, with the packing drawn: Q0 is head 0 of Q, and so on.

    Examples:

    \b
      qkvinspect layouts
      qkvinspect layouts falcon-new
      qkvinspect layouts --format json

    Exit status:

    \b
      0  listed
      2  there is no layout of this id
    """
    from qkvinspect.layouts import LAYOUTS, by_id
    from qkvinspect.render import catalogue

    chosen = list(LAYOUTS) if id is None else [by_id(id)]
    if format == "json":
        sys.stdout.write(catalogue.as_json(chosen))
    elif id is not None:
        sys.stdout.write(catalogue.full(chosen[0], options.terminal_width()))
    else:
        sys.stdout.write(catalogue.table(chosen))
