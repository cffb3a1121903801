"""qkvinspect trend"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from qkvinspect.cli import options, outputs, printing, streams
from qkvinspect.cli.declared import Exit, argument, option


def trend(
    rows: Annotated[
        list[Path],
        argument(metavar="ROWS...", help="What `qkvinspect scan -o FILE.jsonl` wrote.", show_default=False),
    ],
    column: options.Columns = None,
    layer: options.Layers = None,
    per_head: Annotated[bool, option("--per-head", help="One row a head.")] = False,
    chart: Annotated[bool, option("--chart", help="Curves of dots instead of tables.")] = False,
    plot: Annotated[
        Path | None, option("--plot", metavar="FILE", help="Draw the curves, too: .png, .svg or .pdf.")
    ] = None,
    format: options.AskFormat = options.TABLE,
    output: options.Output = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Show how norms and other figures move over a training run.

    Several files are taken together, such as those of the shards of one scan. Found are: norm-spike, a norm that
    jumps against its own past and its stack; dying-head, a head that falls towards zero while those beside it do
    not; norm-drift and logit-bound-growth, what grows and does not settle; nonfinite; unreadable and missing-steps.

    Examples:

    \b
      qkvinspect trend run.jsonl
      qkvinspect trend rows-*.jsonl --column norm --layer '*.0.*' --per-head
      qkvinspect trend run.jsonl --chart
      qkvinspect trend run.jsonl --plot run.png --format json

    Exit status:

    \b
      0  nothing is a warning or an error
      1  something is
      2  the rows or the command line cannot be used
    """
    from qkvinspect.render.results.trend import document
    from qkvinspect.scans.series import read
    from qkvinspect.scans.trend import trend as summed_up

    streams.hush(quiet)
    for target in (plot, output):
        outputs.require_output(target, rows, force=force)
    run = read(rows, layer or ())
    found = summed_up(run, options.listed(column), per_head=per_head)
    if plot is not None:
        from qkvinspect.render.trend_plot import plot as draw

        draw(found, plot, force=force)
    printing.put(document(found, drawn=printing.view() if chart else None), format, output, force=force)
    if found.failed:
        raise Exit(1)
