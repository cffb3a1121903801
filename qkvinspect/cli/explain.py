"""qkvinspect explain"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from qkvinspect.cli import options, outputs, printing, streams
from qkvinspect.cli.declared import Exit, argument, option

if TYPE_CHECKING:
    from qkvinspect.checkpoint import Checkpoint
    from qkvinspect.explain.verify import Verification
    from qkvinspect.inspection.report import Attention


def explain(
    path: options.Checkpoints,
    names: Annotated[
        list[str] | None,
        argument(
            metavar="[LAYER]...",
            help="Names or globs of layers, as --layer; all when none is named.",
            show_default=False,
        ),
    ] = None,
    layer: options.Layers = None,
    verify: Annotated[
        bool,
        option("--verify", help="Run the real nn.MultiheadAttention against the split parts (needs torch)."),
    ] = False,
    format: options.AskFormat = options.TABLE,
    output: options.Output = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    heads: options.Heads = None,
    layout: options.Layouts = None,
    config: options.Config = None,
    base: options.Base = None,
    container: options.Container = None,
    evidence: Annotated[
        bool | None,
        option(
            "--evidence/--no-evidence",
            help="Show all that the weights say of heads and packing; or do not ask them at all.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        option(
            "--plot", metavar="FILE", help="Draw how the tie between rows ends where a head ends: .png, .svg or .pdf."
        ),
    ] = None,
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
    from qkvinspect.render.results.explain import document, explained

    streams.hush(quiet)
    outputs.require_output(output, (path, config, base), force=force)
    if plot is not None:
        _require_plottable(plot, evidence, force=force)
    with options.load(path, container, config, limit, download, base) as checkpoint:
        ask = "thorough" if evidence or plot else "wanted" if evidence is None else "none"
        chosen = [*(names or ()), *(layer or ())]
        found = options.report(checkpoint, layers=chosen, heads=heads, layouts=layout, norms=False, evidence=ask)
        if plot is not None:
            _plot(found.attentions, plot, force=force)
        layers = [
            explained(
                attention,
                explain_layer(attention, checkpoint),
                _proof(checkpoint, attention, len(found.attentions) > 1) if verify else "not asked",
                weighed=bool(evidence),
            )
            for attention in found.attentions
        ]
    printing.put(document(found, layers), format, output, force=force)
    if any(not isinstance(one.proof, str) and not one.proof.agrees for one in layers):
        raise Exit(1)


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


def _proof(checkpoint: Checkpoint, attention: Attention, one_of_many: bool) -> Verification | str:
    """How the split parts compare with the real module; "none" for one layer of many that is another module."""
    from qkvinspect.explain.verify import verify

    if one_of_many and (attention.layout is None or not attention.layout.nn_multihead):
        return "none"
    return verify(checkpoint, attention)
