"""qkvinspect layouts"""

from __future__ import annotations

from typing import Annotated

from qkvinspect.cli import options, outputs, printing
from qkvinspect.cli.declared import argument


def layouts(
    id: Annotated[str | None, argument(metavar="[ID]", help="One layout in full.", show_default=False)] = None,
    format: options.AskFormat = options.TABLE,
    output: options.Output = None,
    force: options.Force = False,
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
    from qkvinspect.render.results.layouts import document

    outputs.require_output(output, (), force=force)
    chosen = list(LAYOUTS) if id is None else [by_id(id)]
    printing.put(document(chosen, full=id is not None), format, output, force=force)
