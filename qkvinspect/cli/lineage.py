"""qkvinspect lineage"""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from qkvinspect.cli import options, outputs, printing, streams
from qkvinspect.cli.declared import Exit, argument, option


class Expected(StrEnum):
    """The verdicts, as words of a command line."""

    IDENTICAL = "identical"
    DERIVED = "derived"
    COMMON_ANCESTOR = "common-ancestor"
    KIN = "kin"
    UNRELATED = "unrelated"
    UNDETERMINED = "undetermined"


def lineage(
    paths: Annotated[
        list[str],
        argument(metavar="A B [C ...]", help="Two checkpoints or URLs, or more.", show_default=False),
    ],
    expect: Annotated[
        Expected | None,
        option("--expect", help="Exit with 1 unless this is what every other one is to A.", show_default=False),
    ] = None,
    base: Annotated[
        str | None,
        option(
            "--base", metavar="PATH", help="What the others were made from, or adapters are added to: it becomes A."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        option("--plot", metavar="FILE", help="Draw the tree and a map of layers and heads: .svg or .html."),
    ] = None,
    format: options.AskFormat = options.TABLE,
    output: options.Output = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    layer: options.Layers = None,
    heads: options.Heads = None,
    layout: options.Layouts = None,
    config: options.Config = None,
    container: options.Container = None,
    evidence: options.AskWeights = True,
    limit: options.Limits = None,
    download: options.Download = False,
) -> None:
    """Tell which checkpoints are kin, and what became of each head.

    Heads are compared by their QK and OV circuits, which stay what they are when heads change places, are rotated
    inside, rescaled, packed, renamed or rounded. The p-value is the chance that the units of two models that were
    started independently stand in the same order; no training data is needed. Below 1e-6 two checkpoints are kin:
    identical where all values are equal, derived where one holds nothing that is not in the other (pruned, rounded,
    its heads moved or turned). Of a fine-tuned copy and of two that have a parent in common no more than kin can be
    said, unless --base gives the parent: its kin are derived from it, and each two that went their own way from it
    have it as their common ancestor. From 1e-3 on two are unrelated. Where nothing can be shown, they are undetermined.

    For each layer the map has a digit a head: 0 not moved, 9 moved by nine tenths of its size or more.

    Needs scipy: pip install 'qkvinspect[lineage]'.

    Examples:

    \b
      qkvinspect lineage base.safetensors release/
      qkvinspect lineage base/ step1000/ step2000/ merged.safetensors
      qkvinspect lineage base/ tuned/ --plot heads.svg
      qkvinspect lineage mine/ theirs/ --base base/
      qkvinspect lineage base/ mine/ --expect kin --format json

    Exit status:

    \b
      0  compared; with --expect: it is what was expected
      1  with --expect: it is something else; all but unrelated and undetermined are kin, identical is derived, too
      2  the input or the command line cannot be used
    """
    from qkvinspect.cli.progress import Bar
    from qkvinspect.errors import UsageError
    from qkvinspect.lineage import lineage as compared
    from qkvinspect.lineage.kinship import VERDICTS, Verdict
    from qkvinspect.render.lineage_picture import picture, require_drawable
    from qkvinspect.render.results.lineage import document
    from qkvinspect.weights.adapters import is_adapter

    streams.hush(quiet)
    paths = paths if base is None else [base, *paths]
    if len(paths) < 2:
        raise UsageError("there is nothing to compare it with", file=paths[0], hint="name two checkpoints or more")
    outputs.require_output(output, (*paths, config), force=force)
    outputs.require_output(plot, (*paths, config), force=force)
    require_drawable(plot)
    ask = "wanted" if evidence else "none"
    with ExitStack() as opened:
        files = [opened.enter_context(options.load(path, container, config, limit, download)) for path in paths]
        for place, file in enumerate(files):
            if base is not None and is_adapter(file):
                whole = options.load(paths[place], container, config, limit, download, base)
                files[place] = opened.enter_context(whole)
        reports = [
            options.report(file, layers=layer, heads=heads, layouts=layout, norms=False, evidence=ask) for file in files
        ]
        with Bar("comparing") as bar:
            found = compared(reports, bar.advance, base=base is not None)
    if plot is not None:
        printing.save(picture(found, plot.suffix), plot, force=force)
    printing.put(document(found), format, output, force=force)
    if expect is not None:
        expected: Verdict = next(verdict for verdict in VERDICTS if verdict.replace(" ", "-") == expect.value)
        if not found.answers(expected):
            raise Exit(1)
