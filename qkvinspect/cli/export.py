"""qkvinspect export"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from qkvinspect.cli import options, printing, saving, streams
from qkvinspect.cli.declared import option


def export(
    path: options.Checkpoints,
    output: saving.Out,
    split: Annotated[
        bool, option("--split", help="As it does anyway, but for --all --base: split the merged checkpoint, too.")
    ] = False,
    everything: Annotated[
        bool, option("--all", help="The whole checkpoint, each fused tensor replaced by its parts.")
    ] = False,
    heads_split: Annotated[bool, option("--heads-split", help="Write each head apart.")] = False,
    names: Annotated[
        str | None,
        option(
            "--names",
            metavar="NAMES",
            help="How to call the parts: hf, bert, timm, diffusers, torch, or such as '{layer}.{part}_proj.{kind}'.",
        ),
    ] = None,
    rename: saving.Rename = None,
    dequantize: saving.Dequantize = None,
    undo_permute: Annotated[
        bool,
        option("--undo-permute", help="Put rows that llama.cpp's converter permuted in transformers' order."),
    ] = False,
    max_shard_size: saving.MaxShard = None,
    dry_run: saving.DryRun = False,
    verify: saving.Verify = False,
    format: options.AskFormat = options.TABLE,
    force: options.Force = False,
    quiet: options.Quiet = False,
    layer: options.Layers = None,
    heads: options.Heads = None,
    layout: options.Layouts = None,
    config: options.Config = None,
    base: options.Base = None,
    container: options.Container = None,
    evidence: options.AskWeights = True,
    limit: options.Limits = None,
    download: options.Download = False,
) -> None:
    """Write the Q, K and V of a checkpoint as tensors of their own.

    They are called <layer>.q_proj.weight, .k_proj.weight, .v_proj.weight and the same with .bias, each
    [out, in] as nn.Linear stores it, and keep their dtype bit for bit. With --heads-split they are called
    <layer>.q_proj.heads.0.weight and so on. With --all everything else of the checkpoint comes along, byte for
    byte; with --base too, the base is written as it is but with the adapter added, and split only with --split.
    The file appears whole or not at all.

    Examples:

    \b
      qkvinspect export model.pt -o qkv.safetensors
      qkvinspect export model.pt -o heads.pt --heads-split --heads 8
      qkvinspect export --all model.pt -o unfused.safetensors --verify
      qkvinspect export --all big/ -o unfused --max-shard-size 5GB --names diffusers
      qkvinspect export model.gguf -o qkv.safetensors --dequantize float16 --undo-permute
      qkvinspect export --all adapter/ --base model/ -o merged.safetensors

    Exit status:

    \b
      0  written
      2  the input or the command line cannot be used; nothing was written
    """
    from qkvinspect.errors import UsageError
    from qkvinspect.export import merged_whole, split_pieces, split_whole
    from qkvinspect.export.naming import DEFAULT, renaming
    from qkvinspect.export.parts import reordered_parts

    streams.hush(quiet)
    split = split or not (everything and base)
    if undo_permute and not split:
        raise UsageError("--undo-permute is for parts that are written apart", hint="give --split")
    if everything and heads_split:
        raise UsageError("--all and --heads-split do not go together", hint="leave one of them out")
    if rename and not everything:
        raise UsageError("--rename is for whole checkpoints", hint="give --all, or --names for the parts alone")
    numbers_as = saving.dtype(dequantize)
    how = saving.how(max_shard_size, force=force, verify=verify, whole=everything)
    with options.load(path, container, config, limit, download, base) as checkpoint:
        look = partial(options.report, checkpoint, layers=layer, heads=heads, layouts=layout, norms=False)
        found = saving.inspected(lambda ask: look(evidence=ask), evidence=evidence, heads_needed=heads_split)
        saving.require_attention(found, "export")
        if undo_permute and not any(map(reordered_parts, found.attentions)):
            raise UsageError(
                "--undo-permute finds no layer whose rows llama.cpp's converter permutes",
                file=checkpoint.path,
                hint="leave it out",
            )
        if everything and not split:
            pieces, layers = merged_whole(found, rename=renaming(rename or ()), numbers_as=numbers_as), 0
        elif everything:
            plan = split_whole(
                found,
                names=names,
                rename=renaming(rename or ()),
                numbers_as=numbers_as,
                undo_permute=undo_permute,
            )
            pieces, layers = plan.pieces, plan.layers
        else:
            pieces = split_pieces(
                found,
                heads_split=heads_split,
                names=names or DEFAULT,
                numbers_as=numbers_as,
                undo_permute=undo_permute,
            )
            layers = len(found.attentions)
        saving.save(found, pieces, output, how, command="export", format=format, layers=layers, dry_run=dry_run)
        permuted = {part.upper() for one in found.attentions for part in reordered_parts(one)}
        if permuted and split and not undo_permute:
            parts = " and ".join(sorted(permuted, key="QKV".index))
            printing.note(
                f"info: the rows of {parts} lie as llama.cpp's converter permuted them; --undo-permute puts them back"
            )
        if everything:
            if split and not layers:
                printing.note("info: Q, K and V of every layer lie apart already: nothing but the file is new")
            saving.explain_rest(found, pieces, output)
