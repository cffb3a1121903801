"""qkvinspect diff"""

from __future__ import annotations

from typing import Annotated

from qkvinspect.cli import options, outputs, printing, streams
from qkvinspect.cli.declared import Exit, argument, option


def diff(
    a: Annotated[str, argument(metavar="A", help="A checkpoint or a URL: what there was.", show_default=False)],
    b: Annotated[str, argument(metavar="B", help="Another: what became of it.", show_default=False)],
    layer: options.Layers = None,
    map: Annotated[
        list[str] | None,
        option("--map", metavar="OLD=NEW", help="The name in B of a layer, a prefix or a glob of A; repeatable."),
    ] = None,
    per_head: Annotated[bool, option("--per-head", help="One row a head of what is not identical.")] = False,
    attention_only: Annotated[
        bool, option("--attention-only", help="Leave out the tensors outside attention.")
    ] = False,
    align: Annotated[
        bool, option("--align", help="First bring B's layers and heads into A's order and basis.")
    ] = False,
    rotary: options.Rotary = None,
    tolerance: Annotated[
        float | None,
        option("--tolerance", metavar="X", min=0.0, help="A relative L2 difference up to X counts as the same."),
    ] = None,
    format: options.AskFormat = options.TABLE,
    output: options.Output = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    heads: options.Heads = None,
    layout: options.Layouts = None,
    config: Annotated[
        list[str] | None,
        option("--config", metavar="FILE", help="Hyper-parameters to trust first; a second one is B's."),
    ] = None,
    container: Annotated[
        list[str] | None,
        option("--container", metavar="NAME", help="Which state_dict of a file; a second one is B's."),
    ] = None,
    base: options.Base = None,
    evidence: options.AskWeights = True,
    limit: options.Limits = None,
    download: options.Download = False,
) -> None:
    """Compare Q, K, V and output of every layer, however stored.

    A fused tensor is compared with separate ones, Conv1D with Linear, interleaved with blocked, float32 with
    bfloat16. Each part is identical, equal but for the rounding to its dtype, or changed, and by how much.
    Permuted heads, K and V swapped, rows turned for another form of rotary embedding, transposed, zero-filled
    and wrongly cut weights are recognised. All other tensors are compared by name.

    With --align, layers that were inserted or removed and heads that were permuted, rotated inside, rescaled or cut
    off are found as `lineage` finds them, and what changes no output is undone before B is compared.

    Examples:

    \b
      qkvinspect diff before.pt after.safetensors
      qkvinspect diff timm.pt hf_model/ --map 'blocks.*.attn=encoder.layer.*.attention.self'
      qkvinspect diff fp32.safetensors bf16.safetensors --per-head --format markdown
      qkvinspect diff base/ pruned/ --align --attention-only
      qkvinspect diff train.pt train.pt --container model --container ema

    Exit status:

    \b
      0  the same: identical, or equal but for rounding (or within --tolerance)
      1  something is changed, added or removed
      2  the input or the command line cannot be used
    """
    from qkvinspect.cli.progress import Bar
    from qkvinspect.diff import DiffOptions, compare
    from qkvinspect.errors import UsageError
    from qkvinspect.render.results import diff as result

    streams.hush(quiet)
    if rotary is not None and not align:
        raise UsageError("--rotary means nothing without --align")
    outputs.require_output(output, (a, b, base, *(config or ())), force=force)
    ask = "wanted" if evidence else "none"
    configs, containers = options.each(config, "--config"), options.each(container, "--container")
    one, other = options.load_sides((a, b), containers, configs, limit, download, base)
    with one, other:
        before, after = (
            options.report(file, layers=None, heads=heads, layouts=layout, norms=False, evidence=ask)
            for file in (one, other)
        )
        if attention_only and not before.attentions and not after.attentions:
            raise UsageError("there is no attention to compare", file=one.path)
        wanted = DiffOptions(tuple(map or ()), tuple(layer or ()), not attention_only, tolerance, align, rotary)
        with Bar("comparing") as bar:
            found = compare(before, after, wanted, bar.advance)
    folded = output is None and printing.lines() is not None
    printing.put(result.document(found, per_head=per_head, folded=folded), format, output, force=force)
    if not found.same:
        raise Exit(1)
