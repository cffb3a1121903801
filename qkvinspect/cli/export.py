"""qkvinspect export"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qkvinspect.cli import options


def export(
    path: options.Checkpoints,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write: .safetensors, .pt or .pth.")
    ],
    split: Annotated[
        bool, typer.Option("--split", help="Write Q, K and V of each layer as tensors of their own.")
    ] = False,
    heads_split: Annotated[bool, typer.Option("--heads-split", help="Write each head apart.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    layer: options.Layers = None,
    heads: options.Heads = None,
    layout: options.Layouts = None,
    config: options.Config = None,
    container: options.Container = None,
    evidence: options.AskWeights = True,
    limit: options.Limits = None,
) -> None:
    """Write the Q, K and V of a checkpoint as tensors of their own.

    They are called <layer>.q_proj.weight, .k_proj.weight, .v_proj.weight and the same with .bias, each
    [out, in] as nn.Linear stores it, and keep their dtype bit for bit. With --heads-split they are called
    <layer>.q_proj.heads.0.weight and so on. The file appears whole or not at all.

    Examples:

    \b
      qkvinspect export --split model.pt -o qkv.safetensors
      qkvinspect export --split model.pt -o heads.pt --heads-split --heads 8

    Exit status:

    \b
      0  written
      2  the input or the command line cannot be used; nothing was written
    """
    from qkvinspect.cli.progress import Bar
    from qkvinspect.errors import UsageError
    from qkvinspect.export import split_pieces, write
    from qkvinspect.render.text import clean, count, findings, size

    if not (split or heads_split):
        raise UsageError("export needs to know what to write", hint="give --split (or --heads-split)")
    with options.load(path, container, config, limit) as checkpoint:
        ask = "wanted" if evidence else "none"
        found = options.report(checkpoint, layers=layer, heads=heads, layouts=layout, norms=False, evidence=ask)
        if not found.attentions:
            raise UsageError("there is no attention to export", file=str(path))
        pieces = split_pieces(found, heads_split=heads_split)
        with Bar("writing") as bar:
            write(found, pieces, out, force=force, progress=bar.advance)
    written = sum(piece.nbytes for piece in pieces)
    layers = count(len(found.attentions), "layer")
    sys.stdout.write(clean(f"{out}: {count(len(pieces), 'tensor')} of {layers}, {size(written)}") + "\n")
    for finding, message in findings(found.findings):
        if finding.severity != "info":
            print(f"{finding.severity}: {message}", file=sys.stderr)
