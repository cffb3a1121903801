"""qkvinspect convert"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from qkvinspect.cli import heads_anew, options, saving, streams
from qkvinspect.cli.declared import option


def convert(
    path: options.Checkpoints,
    output: saving.Out,
    to: saving.OtherTo = None,
    heads: options.Heads = None,
    zero_bias: saving.ZeroBias = False,
    dequantize: saving.Dequantize = None,
    rename: saving.Rename = None,
    tp: Annotated[
        int | None,
        option("--tp", metavar="N", help="Write the shares of N tensor-parallel ranks into a folder.", min=1),
    ] = None,
    whole: Annotated[
        list[str] | None,
        option("--whole", metavar="GLOB", help="With --tp: tensors that every rank gets whole; repeatable."),
    ] = None,
    align_to: Annotated[
        str | None,
        option("--align-to", metavar="A", help="Heads in the order and basis of this checkpoint, a relative."),
    ] = None,
    align_heads: Annotated[
        list[str] | None,
        option("--align-heads", metavar="[GLOB=]N[/KV]", help="With --align-to: as --heads, of A; repeatable."),
    ] = None,
    kv_heads: Annotated[
        int | None,
        option("--kv-heads", metavar="N", help="Make fewer heads of K and V, N of those there are.", min=1),
    ] = None,
    rotary: options.Rotary = None,
    max_shard_size: saving.MaxShard = None,
    dry_run: saving.DryRun = False,
    verify: saving.Verify = False,
    format: options.AskFormat = options.TABLE,
    force: options.Force = False,
    quiet: options.Quiet = False,
    layer: options.Layers = None,
    layout: options.Layouts = None,
    config: options.Config = None,
    base: options.Base = None,
    container: options.Container = None,
    evidence: options.AskWeights = True,
    limit: options.Limits = None,
    download: options.Download = False,
) -> None:
    """Store the attention of a checkpoint as another library does.

    Q, K and V of every layer are packed, called and laid (GPT-2 keeps [in, out]) as the layout --to says, and so
    is the output projection. Everything else comes along byte for byte, under the same name unless --rename says
    otherwise. Values are never changed, but for the two options below: where a library computes something else with
    the same numbers (another rotary embedding), that stays so.

    With --align-to the heads are put in the order of those of a checkpoint that this one is kin to, and turned and
    rescaled inside, which changes no output; A has as many heads as --heads says where nothing else tells, or as
    --align-heads says. With --kv-heads those heads of K and V that are most alike become one,
    after they were turned upon each other; that changes outputs, and how much the circuits change is printed beside
    what the mean of neighbours would cost. Without --to both leave the layout as it is.

    Of an adapter alone A stays, and the rows of B move as those of the weight; where several modules become one,
    their A's are stacked, and what its config then has to say is printed and kept in the file.

    With --tp a folder gets the shares of so many ranks of tensor parallelism: a layout of Megatron's as Megatron
    loads it, any other as vLLM loads its sharded state. The files of ranks are read as one checkpoint, so --tp 2
    makes two ranks of eight, and without --tp a folder of ranks becomes one file.

    Examples:

    \b
      qkvinspect convert model.safetensors --to torch-mha -o mha.pt
      qkvinspect convert llama/ --to megatron-core -o megatron.safetensors --heads 32/8
      qkvinspect convert model.safetensors --to megatron-core --tp 4 -o ranks
      qkvinspect convert tuned/ --align-to base/ -o aligned.safetensors
      qkvinspect convert llama/ --kv-heads 4 -o grouped.safetensors --dry-run
      qkvinspect convert model.pt --to bert -o bert.pt --rename 'encoder\\.layers=encoder.layer'

    Exit status:

    \b
      0  written
      2  the input or the command line cannot be used; nothing was written
    """
    from qkvinspect.errors import UsageError
    from qkvinspect.export import SUFFIXES, Ranks, convert_whole
    from qkvinspect.inspection.facts.flags import parse_flag
    from qkvinspect.layouts import by_id

    streams.hush(quiet)
    anew = align_to is not None or kv_heads is not None
    if to is None and not anew:
        raise UsageError("Missing option '--to'", hint="`qkvinspect layouts` lists what it can be")
    if rotary is not None and not anew:
        raise UsageError("--rotary means nothing without --align-to or --kv-heads")
    how = saving.how(max_shard_size, force=force, verify=verify, whole=True)
    if tp is not None and max_shard_size:
        raise UsageError("--tp and --max-shard-size do not go together", hint="each rank is one file")
    if whole and tp is None:
        raise UsageError("--whole means nothing without --tp", hint="give --tp N")
    if align_heads and align_to is None:
        raise UsageError("--align-heads means nothing without --align-to")
    for text in (*(heads or ()), *(align_heads or ())):
        parse_flag(text)  # refused before anything is opened
    with options.load(path, container, config, limit, download, base) as checkpoint:
        look = partial(options.report, checkpoint, layers=layer, heads=heads, layouts=layout, norms=False)
        layout_of = by_id(to) if to is not None else None
        grouped = (
            anew
            or layout_of is None
            or (tp or 1) > 1
            or any(stored.packing.groups != "one" for stored in layout_of.weights)
        )
        found = saving.inspected(lambda ask: look(evidence=ask), evidence=evidence, heads_needed=grouped)
        saving.require_attention(found, "convert")
        layout_to = layout_of if layout_of is not None else heads_anew.same_layout(found)
        target = saving.target(layout_to, None if anew else heads, zero_bias=zero_bias, rename=rename,
                               numbers_as=dequantize)  # fmt: skip
        heads_anew.require_grouped(layout_to, kv_heads)
        changes = None
        if anew:
            found, changes = heads_anew.remade(
                found,
                align_to,
                kv_heads,
                rotary,
                lambda a: options.load(a, None, None, limit, download),
                (heads, align_heads),
            )
        plan = convert_whole(found, target)
        if tp is None or (tp == 1 and output.suffix in SUFFIXES):
            saving.save_plan(
                found, plan, target, output, how, command="convert", format=format, dry_run=dry_run, heads=changes
            )
        else:
            ranks = Ranks(tp, target.layout.ranks_for, tuple(whole or ()))
            saving.save_ranks(found, plan, target, ranks, output, how, format=format, dry_run=dry_run, heads=changes)
        heads_anew.say_what_config_needs(kv_heads)
