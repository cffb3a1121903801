"""qkvinspect explain"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qkvinspect.cli import options

if TYPE_CHECKING:
    from qkvinspect.checkpoint import Checkpoint
    from qkvinspect.inspection.report import Attention


def explain(
    path: options.Checkpoints,
    layer: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LAYER]...", help="Names or globs of layers; all when none is named.", show_default=False
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Run the real nn.MultiheadAttention against the split parts (needs torch)."),
    ] = False,
    heads: options.Heads = None,
    layout: options.Layouts = None,
    config: options.Config = None,
    base: options.Base = None,
    container: options.Container = None,
    evidence: Annotated[
        bool | None,
        typer.Option(
            "--evidence/--no-evidence",
            help="Show all that the weights say of heads and packing; or do not ask them at all.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw how the tie between rows ends where a head ends: .png, .svg or .pdf."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing plot.")] = False,
    limit: options.Limits = None,
    download: options.Download = False,
) -> None:
    """Say in words which rows of a layer are Q, K and V, and why.

    Where the biases are, how the heads lie, what would be stored if kdim or vdim differed, and the lines of
    PyTorch that slice it. With --verify, the largest difference between nn.MultiheadAttention with the stored
    weights and attention computed from the split parts. With --evidence, every number of heads and packing
    that fits, how well each explains the weights, and how the tie between rows ends where a head ends.

    Examples:

    \b
      qkvinspect explain model.pt encoder.layers.0.self_attn
      qkvinspect explain model.pt --heads 8 --verify
      qkvinspect explain model.pt encoder.layers.0.self_attn --evidence
      qkvinspect explain model.pt --plot heads.png

    Exit status:

    \b
      0  explained, and verified where that was asked for
      1  the split parts do not give what nn.MultiheadAttention gives
      2  the input or the command line cannot be used
    """
    from qkvinspect.explain.explanation import explain as explain_layer
    from qkvinspect.finding_codes import AGAINST_WEIGHTS
    from qkvinspect.render import evidence as testimony
    from qkvinspect.render import prose
    from qkvinspect.render.text import findings, summary

    if plot is not None:
        _require_plottable(plot, evidence, force=force)
    failed = False
    width, colour = options.terminal_width(), options.wants_colour()
    with options.load(path, container, config, limit, download, base) as checkpoint:
        ask = "thorough" if evidence or plot else "wanted" if evidence is None else "none"
        found = options.report(checkpoint, layers=layer, heads=heads, layouts=layout, norms=False, evidence=ask)
        if plot is not None:
            _plot(found.attentions, plot, force=force)
        sys.stdout.write("\n".join(summary(found)) + "\n")
        if not found.attentions:
            sys.stdout.write("No attention was found in it.\n")
        for finding, message in findings(found.findings):
            if finding.code in AGAINST_WEIGHTS:
                sys.stdout.write(prose.point("Beware", f"{message}.", width) + "\n")
        for attention in found.attentions:
            sys.stdout.write("\n" + prose.render(explain_layer(attention, checkpoint), width, colour))
            if evidence:
                sys.stdout.write(testimony.render(attention, width))
            if verify:
                failed |= _verify(checkpoint, attention, width, len(found.attentions) > 1)
    if failed:
        raise typer.Exit(1)


def _require_plottable(plot: Path, evidence: bool | None, *, force: bool) -> None:
    from qkvinspect.errors import UsageError
    from qkvinspect.render import plots

    if evidence is False:
        raise UsageError("--plot draws what --no-evidence leaves out", hint="leave one of them out")
    plots.require_plottable(plot, force=force)


def _plot(attentions: Sequence[Attention], plot: Path, *, force: bool) -> None:
    """Draw what the weights of each stack of layers say."""
    from qkvinspect.render import plots
    from qkvinspect.render.evidence import stacks

    drawn = [stack for stack in stacks(attentions) if stack.evidence.profile]
    plots.save_profiles([plots.Profile(one.named, one.evidence.profile, one.width) for one in drawn], plot, force)


def _verify(checkpoint: Checkpoint, attention: Attention, width: int | None, one_of_many: bool) -> bool:
    """Print how the proof went; True if it failed."""
    from qkvinspect.explain.verify import verify
    from qkvinspect.render import prose, text

    if one_of_many and (attention.layout is None or not attention.layout.nn_multihead):
        sys.stdout.write(prose.point("Verified", "no: this is not nn.MultiheadAttention.", width) + "\n")
        return False
    result = verify(checkpoint, attention)
    heads = "as above" if attention.heads else "1, as their number is unknown: this proves the rows, not the heads"
    outcome = "yes" if result.agrees else "NO"
    said = (
        f"{outcome}: nn.MultiheadAttention with the stored weights (read by {result.reader}) and attention from the "
        f"split parts differ by at most {result.difference:.1e}, where outputs reach {text.number(result.scale)} "
        f"(float64, random inputs, heads {heads})."
    )
    sys.stdout.write(prose.point("Verified", said, width) + "\n")
    return not result.agrees
