"""qkvinspect pack"""

from __future__ import annotations

from qkvinspect.cli import options, saving, streams


def pack(
    path: options.Checkpoints,
    to: saving.To,
    output: saving.Out,
    heads: options.Heads = None,
    zero_bias: saving.ZeroBias = False,
    dequantize: saving.Dequantize = None,
    rename: saving.Rename = None,
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
    limit: options.Limits = None,
    download: options.Download = False,
) -> None:
    """Join Q, K and V that lie apart, as another layout stores them.

    What export --split took apart, pack puts together again: the same bytes. Everything else of the checkpoint
    comes along as it is. Where the layout's rows go by heads, their number comes from a config beside the
    checkpoint or from --heads.

    Of an adapter alone A stays, and the rows of B move as those of the weight; where several modules become one,
    their A's are stacked, and what its config then has to say is printed and kept in the file.

    Examples:

    \b
      qkvinspect pack unfused.safetensors --to torch-mha -o packed.pt
      qkvinspect pack parts.pt --to megatron-core --heads 32/8 -o fused.safetensors

    Exit status:

    \b
      0  written
      2  the input or the command line cannot be used; nothing was written
    """
    from qkvinspect.export import pack_whole

    streams.hush(quiet)
    target = saving.target(to, heads, zero_bias=zero_bias, rename=rename, numbers_as=dequantize)
    how = saving.how(max_shard_size, force=force, verify=verify, whole=True)
    by_layer = None if target.heads else heads
    with options.load(path, container, config, limit, download, base) as checkpoint:
        found = options.report(checkpoint, layers=layer, heads=by_layer, layouts=layout, norms=False, evidence="none")
        saving.require_decoded(found, "pack")
        plan = pack_whole(found, target, tuple(layer or ()))
        saving.save_plan(found, plan, target, output, how, command="pack", format=format, dry_run=dry_run)
