"""qkvinspect convert"""

from __future__ import annotations

from functools import partial

from qkvinspect.cli import options, saving


def convert(
    path: options.Checkpoints,
    to: saving.To,
    out: saving.Out,
    heads: saving.NumHeads = None,
    kv_heads: saving.KvHeads = None,
    zero_bias: saving.ZeroBias = False,
    dequantize: saving.Dequantize = None,
    rename: saving.Rename = None,
    max_shard_size: saving.MaxShard = None,
    dry_run: saving.DryRun = False,
    verify: saving.Verify = False,
    force: saving.Force = False,
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
    otherwise. Values are never changed: where a library computes something else with the same numbers (another
    rotary embedding), that stays so.

    Examples:

    \b
      qkvinspect convert model.safetensors --to torch-mha -o mha.pt
      qkvinspect convert llama/ --to megatron-core -o megatron.safetensors --heads 32 --kv-heads 8
      qkvinspect convert model.pt --to bert -o bert.pt --rename 'encoder\\.layers=encoder.layer'

    Exit status:

    \b
      0  written
      2  the input or the command line cannot be used; nothing was written
    """
    from qkvinspect.errors import UsageError
    from qkvinspect.export import convert_whole

    target = saving.target(to, heads, kv_heads, zero_bias=zero_bias, rename=rename, numbers_as=dequantize)
    how = saving.how(max_shard_size, force=force, verify=verify, whole=True)
    given = [f"{heads}/{kv_heads}" if kv_heads else str(heads)] if heads else None
    with options.load(path, container, config, limit, download, base) as checkpoint:
        look = partial(options.report, checkpoint, layers=layer, heads=given, layouts=layout, norms=False)
        grouped = any(stored.packing.groups != "one" for stored in target.layout.weights)
        found = saving.inspected(lambda ask: look(evidence=ask), evidence=evidence, heads_needed=grouped)
        if not found.attentions:
            raise UsageError("there is no attention to convert", file=checkpoint.path)
        saving.save_plan(found, convert_whole(found, target), target, out, how, dry_run=dry_run)
