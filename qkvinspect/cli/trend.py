"""qkvinspect trend"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qkvinspect.cli import options, outputs
from qkvinspect.render.writers import WRITERS

if TYPE_CHECKING:
    Format = str
else:
    Format = StrEnum("Format", [(name, name) for name in ("table", "chart", *(n for n in WRITERS if n != "table"))])


def trend(
    rows: Annotated[
        list[Path],
        typer.Argument(metavar="ROWS...", help="What `qkvinspect scan -o FILE.jsonl` wrote.", show_default=False),
    ],
    column: Annotated[
        list[str] | None, typer.Option("--column", metavar="KEY", help="Only this figure; repeatable.")
    ] = None,
    layer: options.Layers = None,
    per_head: Annotated[bool, typer.Option("--per-head", help="One line a head.")] = False,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print it.")] = Format("table"),
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the curves, too: .png, .svg or .pdf.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --plot.")] = False,
) -> None:
    """Show how norms and other figures move over a training run.

    Several files are taken together, such as those of the shards of one scan. Found are: norm-spike, a norm that
    jumps against its own past and its stack; dying-head, a head that falls towards zero while those beside it do
    not; norm-drift and logit-bound-growth, what grows and does not settle; nonfinite; unreadable and missing-steps.

    Examples:

    \b
      qkvinspect trend run.jsonl
      qkvinspect trend rows-*.jsonl --column norm --layer '*.0.*' --per-head
      qkvinspect trend run.jsonl --format chart
      qkvinspect trend run.jsonl --plot run.png --format json

    Exit status:

    \b
      0  nothing is a warning or an error
      1  something is
      2  the rows or the command line cannot be used
    """
    from qkvinspect.errors import UsageError
    from qkvinspect.render.results.trend import document
    from qkvinspect.scans.series import read
    from qkvinspect.scans.trend import trend as summed_up

    outputs.require_output(plot, rows, force=force)
    run = read(rows, layer or ())
    if not run.layers:
        raise UsageError(f"no layer is called {' or '.join(layer or ())}", file=", ".join(map(str, rows)))
    found = summed_up(run, column or (), per_head=per_head)
    if plot is not None:
        from qkvinspect.render.trend_plot import plot as draw

        draw(found, plot, force=force)
    if format == "chart":
        options.put(document(found, drawn=options.view()), "table")
    else:
        options.put(document(found), format)
    if found.failed:
        raise typer.Exit(1)
