"""qkvinspect report"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated

from qkvinspect.cli import options, outputs, printing, streams
from qkvinspect.cli.declared import argument, option
from qkvinspect.fast_dataclass import replace

if TYPE_CHECKING:
    from qkvinspect.diff import Difference
    from qkvinspect.findings import Finding
    from qkvinspect.inspection.report import Report
    from qkvinspect.render.html import PageSide


def report(
    path: options.Checkpoints,
    output: Annotated[Path, option("--output", "-o", metavar="FILE", help="Where to write: one .html file.")],
    other: Annotated[
        str | None,
        argument(metavar="[OTHER]", help="A second checkpoint, to stand beside it.", show_default=False),
    ] = None,
    analysis: Annotated[
        bool, option("--analysis/--no-analysis", help="Analyse every head; norms alone take less time.")
    ] = True,
    force: options.Force = False,
    quiet: options.Quiet = False,
    layer: options.Layers = None,
    heads: options.Heads = None,
    layout: options.Layouts = None,
    config: Annotated[
        list[str] | None,
        option("--config", metavar="FILE", help="Hyper-parameters to trust first; a second one is OTHER's."),
    ] = None,
    container: Annotated[
        list[str] | None,
        option("--container", metavar="NAME", help="Which state_dict of a file; a second one is OTHER's."),
    ] = None,
    base: options.Base = None,
    evidence: options.AskWeights = True,
    limit: options.Limits = None,
    download: options.Download = False,
) -> None:
    """Write all about a checkpoint, or two, into one HTML file.

    It opens offline: which rows are Q, K and V of which head, drawn and as code to copy; heat maps of every figure,
    a table of every head to sort and filter, what the checks find, what the weights say; with OTHER, what changed.
    The file loads nothing from anywhere. The settings of `check` count. Needs the extra [report] (plotly).

    Examples:

    \b
      qkvinspect report model.safetensors -o report.html
      qkvinspect report before.pt after.pt -o report.html --layer 'encoder.*'
      qkvinspect report big/ -o report.html --no-analysis --force

    Exit status:

    \b
      0  written, whatever was found
      2  the input or the command line cannot be used; nothing was written
    """
    from qkvinspect.atomic import new_file
    from qkvinspect.render import html
    from qkvinspect.render.text import clean, count, size

    streams.hush(quiet)
    library = html.plotly()
    outputs.require_output(output, (path, other, *(config or ())), force=force)
    configs, containers = options.each(config, "--config"), options.each(container, "--container")
    with ExitStack() as opened:
        found: list[Report] = []
        paths = [path] if other is None else [path, other]
        for file in options.load_sides(paths, containers, configs, limit, download, base):
            found.append(
                options.report(
                    opened.enter_context(file),
                    layers=None if other else layer,
                    heads=heads,
                    layouts=layout,
                    norms=True,
                    evidence="each" if evidence else "none",
                )
            )
        difference = _difference(found, layer) if other else None
        if difference is not None and layer:
            found = _chosen(found, difference)
        labels = ("A", "B") if other else ("",)
        sides = [_side(label, one, analysis=analysis) for label, one in zip(labels, found, strict=True)]
    page = html.render(sides, difference, library, _today()).encode()
    with new_file(output, force=force) as written:
        written.write(page)
    modules = count(sum(len(one.attentions) for one in found), "attention module")
    findings = count(sum(len(side.findings) for side in sides), "finding")
    printing.say(clean(f"{output}: {modules}, {findings}, {size(len(page))}") + "\n")


def _today() -> date:
    """The day, by UTC; that of SOURCE_DATE_EPOCH where a build is to be the same every time."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(epoch) if epoch.isdecimal() else time(), UTC).date()


def _difference(found: Sequence[Report], layers: list[str] | None) -> Difference:
    from qkvinspect.cli.progress import Bar
    from qkvinspect.diff import DiffOptions, compare

    with Bar("comparing") as bar:
        return compare(found[0], found[1], DiffOptions(layers=tuple(layers or ())), bar.advance)


def _chosen(found: Sequence[Report], difference: Difference) -> list[Report]:
    """Only the layers that were compared: --layer may name those of either side."""
    names = (
        {layer.a for layer in difference.layers}.union(difference.removed),
        {layer.b for layer in difference.layers}.union(difference.added),
    )
    return [
        replace(
            one,
            attentions=tuple(attention for attention in one.attentions if attention.layer in wanted),
            findings=tuple(finding for finding in one.findings if finding.layer is None or finding.layer in wanted),
            selected=True,
        )
        for one, wanted in zip(found, names, strict=True)
    ]


def _side(label: str, found: Report, *, analysis: bool) -> PageSide:
    from qkvinspect.analysis import analyze
    from qkvinspect.cli.progress import Bar
    from qkvinspect.render.html import PageSide

    findings = tuple(_findings(found))
    digests = tuple(_digests(found))
    if not analysis:
        return PageSide(label, found, findings, digests=digests)
    with Bar("analysing") as bar:
        return PageSide(label, found, findings, tuple(analyze(found, progress=bar.advance)), digests)


def _digests(found: Report) -> Iterator[tuple[str, str]]:
    """Of files on this machine: those of others would be fetched whole."""
    from qkvinspect.checks.digests import file_digests
    from qkvinspect.sources import is_remote

    return iter(()) if is_remote(found.checkpoint.path) else file_digests(found.checkpoint)


def _findings(found: Report) -> list[Finding]:
    """Those of the checks and of reading, as the project's settings judge them."""
    from qkvinspect.checks import parse_policy, run
    from qkvinspect.cli.progress import Bar
    from qkvinspect.settings import find

    settings = find(Path.cwd())
    with Bar("checking") as bar:
        return run(found, parse_policy(settings.check, settings.origin), progress=bar.advance)
