"""qkvinspect show"""

from __future__ import annotations

from typing import Annotated

from qkvinspect.cli import options, outputs, printing
from qkvinspect.cli.declared import option


def show(
    path: options.Checkpoints,
    layer: options.Layers = None,
    heads: options.Heads = None,
    per_head: Annotated[bool, option("--per-head", help="One row a head.")] = False,
    full: Annotated[bool, option("--full", help="One table a layer, however alike they are.")] = False,
    tensors: Annotated[bool, option("--tensors", help="List every tensor, and where it belongs.")] = False,
    why: Annotated[
        list[str] | None,
        option(
            "--why",
            metavar="GLOB",
            help="What each source says of the heads of these layers, and how it was weighed; repeatable.",
        ),
    ] = None,
    norms: Annotated[bool, option("--norms/--no-norms", help="Read the weights and measure them.")] = True,
    heat: options.Heat = None,
    plot: options.Plot = None,
    format: options.AskFormat = options.TABLE,
    output: options.Output = None,
    force: options.Force = False,
    layout: options.Layouts = None,
    config: options.Config = None,
    base: options.Base = None,
    container: options.Container = None,
    evidence: options.AskWeights = True,
    limit: options.Limits = None,
    download: options.Download = False,
) -> None:
    """Show Q, K and V of every layer: shapes, rows, norms, heads.

    The number of heads comes from --heads, a config beside or inside the checkpoint, a tensor that fixes it,
    or else from the weights themselves, if they are trained; the table says which. Norms are Frobenius norms.
    Layers that are stored alike share a table with a row a layer, and in a terminal a row has several layers where
    there are very many; --full gives each layer its own, --per-head each head.
    With --no-norms no weight is read. --heat draws q_norm, k_norm or v_norm; analyze has more figures. What looks
    like attention and was not understood is said at the end; --tensors lists every tensor and where it belongs.
    --why puts what each source says of the heads side by side, with what became of it.

    Examples:

    \b
      qkvinspect show model.pt
      qkvinspect show model.safetensors --layer 'encoder.*' --per-head
      qkvinspect show model.pt --heads 8 --format json
      qkvinspect show model.pt --heat v_norm --plot v.png
      qkvinspect show hf://org/model --layer '*.0.*'
      qkvinspect show model.pt --why 'encoder.layers.0.*'
      qkvinspect show checkpoint_dir/ --heads 'decoder.*=32/8' --no-norms

    Exit status:

    \b
      0  shown, also when there is no attention in it
      2  the input or the command line cannot be used
    """
    from qkvinspect.errors import UsageError
    from qkvinspect.render.results import show as result

    if heat is not None:
        from qkvinspect.analysis.grid import NORMS

        if heat not in NORMS or not norms:
            raise UsageError(f"{heat!r} cannot be drawn here", hint=f"{', '.join(NORMS)}; or qkvinspect analyze --heat")
    if tensors and (layer or per_head or full or heat or why):
        hint = "leave --layer, --full, --per-head, --heat and --why out"
        raise UsageError("--tensors lists all of them", hint=hint)
    if why and (layer or per_head or full or heat):
        raise UsageError("--why shows facts about heads", hint="leave --layer, --full, --per-head and --heat out")
    ask = "wanted" if evidence and norms and not tensors else "none"
    norms = norms and not tensors and not why
    printing.require_drawable(heat, plot, format, force=force)
    outputs.require_output(output, (path, config, base), force=force)
    with options.load(path, container, config, limit, download, base) as checkpoint:
        found = options.report(checkpoint, layers=why or layer, heads=heads, layouts=layout, norms=norms, evidence=ask)
    if heat is not None:
        from qkvinspect.analysis.grid import norms as grid

        printing.draw(grid(found, heat), checkpoint, plot, output, force=force)
        return
    lines = printing.lines() if output is None else None
    shown = result.document(found, per_head=per_head, full=full, lines=lines, tensors=tensors, why=bool(why))
    printing.put(shown, format, output, force=force)
