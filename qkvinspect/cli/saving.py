"""What the commands that write checkpoints share: their options, and how they write and what they then say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from qkvinspect.cli import printing
from qkvinspect.cli.declared import option
from qkvinspect.cli.printing import note

if TYPE_CHECKING:
    from qkvinspect.dtypes import DType
    from qkvinspect.export import How, OutputTensor, Plan, Ranks, Target
    from qkvinspect.inspection.report import Report
    from qkvinspect.layouts import Layout
    from qkvinspect.lineage.anew import HeadChanges
    from qkvinspect.render.results.rewriting import Rewriting

Out = Annotated[
    Path,
    option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where to write: .safetensors, .pt or .pth; a folder with --max-shard-size.",
    ),
]
_TO = option("--to", metavar="LAYOUT", help="The layout to store it in; see `qkvinspect layouts`.")
To = Annotated[str, _TO]
OtherTo = Annotated[str | None, _TO]
ZeroBias = Annotated[
    bool, option("--zero-bias", help="Fill the bias of a part that has none with zeros, where others have one.")
]
Rename = Annotated[
    list[str] | None,
    option(
        "--rename",
        metavar="PATTERN=NEW",
        help="Replace a regular expression in every name; repeatable.",
    ),
]
Dequantize = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    option("--dequantize", help="Write the numbers of weights that are stored as codes, in this dtype."),
]
MaxShard = Annotated[
    str | None,
    option("--max-shard-size", metavar="SIZE", help="Write files of at most 5GB (or so), with an index."),
]
DryRun = Annotated[bool, option("--dry-run", help="Print what would be written, and write nothing.")]
Verify = Annotated[
    bool, option("--verify", help="Read the result again and compare it bit for bit, before it has its name.")
]


def how(max_shard: str | None, *, force: bool, verify: bool, whole: bool) -> How:
    """How to write, from the options."""
    from qkvinspect.export import How
    from qkvinspect.formats.limits import size

    return How(force, size(max_shard, "--max-shard-size") if max_shard else 0, verify, hashed=whole, kept=whole)


def target(
    to: str | Layout,
    heads: Sequence[str] | None,
    *,
    zero_bias: bool,
    rename: list[str] | None,
    numbers_as: Literal["float32", "bfloat16", "float16"] | None,
) -> Target:
    """Where to, from the options."""
    from qkvinspect.export import Target
    from qkvinspect.export.naming import renaming
    from qkvinspect.inspection.facts.flags import parse_flag
    from qkvinspect.layouts import by_id

    flags = [parse_flag(text) for text in heads or ()]
    of_all = flags[-1] if flags and all(flag.glob == "*" for flag in flags) else None
    num_heads, num_kv_heads = (of_all.num_heads, of_all.num_kv_heads or 0) if of_all else (0, 0)
    layout = by_id(to) if isinstance(to, str) else to
    return Target(layout, num_heads, num_kv_heads, zero_bias, dtype(numbers_as), renaming(rename or ()))


def dtype(name: Literal["float32", "bfloat16", "float16"] | None) -> DType | None:
    """What --dequantize names."""
    from qkvinspect.dtypes import DTYPES

    return DTYPES[name] if name else None


def inspected(look: Callable[[Literal["none", "wanted"]], Report], *, evidence: bool, heads_needed: bool) -> Report:
    """What is in a checkpoint; its weights are asked unless nothing hangs on what they say.

    Heads that nobody needs to know are not searched for; heads that are known are held against the weights.
    """
    found = look("none")
    asked = (not layer.parts or heads_needed or layer.heads is not None for layer in found.attentions)
    return look("wanted") if evidence and any(asked) else found


def require_attention(report: Report, what: str) -> None:
    """Refuse a checkpoint of which nothing can be written, or not all: a layer whose numbers, and shape, are lost.

    Raises:
        UsageError: it holds no attention, or layers that cannot be decoded.
    """
    from qkvinspect.errors import UsageError

    if not report.attentions:
        found = next(iter(_lost(report)), None)
        raise UsageError(f"there is no attention to {what}", file=report.checkpoint.path, found=found)
    require_decoded(report, what)


def require_decoded(report: Report, what: str) -> None:
    """Refuse a checkpoint of which some attention is lost that nobody left out.

    Raises:
        UsageError: it holds layers that cannot be decoded.
    """
    from qkvinspect.errors import UsageError

    lost = _lost(report)
    if lost and not report.selected:
        raise UsageError(
            f"not all attention can be {what}ed", file=report.checkpoint.path, found=lost[0], hint="choose with --layer"
        )


def _lost(report: Report) -> list[str]:
    """What is said of layers whose numbers, and shapes, are lost."""
    from qkvinspect.finding_codes import FindingCode
    from qkvinspect.render.text import findings

    # Of a layer that is shown with what is lost, the writers themselves say what they cannot write.
    shown = {one.layer for one in report.attentions if not one.weights or any(weight.why for weight in one.weights)}
    return [
        message
        for finding, message in findings(report.findings)
        if finding.code is FindingCode.NO_VALUES and finding.layer not in shown
    ]


def save(
    report: Report,
    pieces: Sequence[OutputTensor],
    out: Path,
    how: How,
    *,
    command: str,
    format: str,
    layers: int,
    dry_run: bool,
    heads: HeadChanges | None = None,
) -> None:
    """Write the pieces, or check that they can be written; say which they are."""
    from qkvinspect.cli.progress import Bar
    from qkvinspect.export import require_possible, shards, write
    from qkvinspect.render.results.rewriting import Rewriting

    if dry_run:
        require_possible(report, pieces, out, how)
    else:
        with Bar("writing") as bar:
            write(report, pieces, out, how, bar.advance)
    result = Rewriting(
        path=str(out),
        num_tensors=len(pieces),
        tensors=pieces,
        layers=layers,
        nbytes=sum(piece.nbytes for piece in pieces),
        files=len(shards(pieces, how.max_shard)) if how.max_shard else None,
        ranks=None,
        written=not dry_run,
        verified=how.verify and not dry_run,
        findings=report.findings,
        heads=heads,
    )
    _put(result, command, format)


def _put(result: Rewriting, command: str, format: str) -> None:
    """Print what was written, and on stderr what its reader must know of the checkpoint that it was made from."""
    from qkvinspect.render.results.rewriting import document
    from qkvinspect.render.text import findings

    printing.put(document(result, command), format)
    for finding, message in findings(result.findings):
        if finding.severity != "info":
            note(f"{finding.severity}: {message}", grave=True)


def explain_rest(report: Report, pieces: Sequence[OutputTensor], out: Path) -> None:
    """Say what of a checkpoint did not come along."""
    from qkvinspect.export.ties import shared
    from qkvinspect.render.text import count

    checkpoint = report.checkpoint
    if checkpoint.container:
        left = [repr(other.path) for other in checkpoint.containers if other.path != checkpoint.container]
        rest = f"; {', '.join(left)} and whatever else the file holds is left out" if left else ""
        note(f"info: only the state_dict {checkpoint.container!r} was taken{rest}")
    tied = shared(pieces)
    if tied and out.suffix not in (".pt", ".pth"):
        note(f"info: {count(tied, 'tensor')} shared memory with another and is written apart: safetensors has no ties")


def save_plan(
    report: Report,
    plan: Plan,
    target: Target,
    out: Path,
    how: How,
    *,
    command: str,
    format: str,
    dry_run: bool,
    heads: HeadChanges | None = None,
) -> None:
    """Write what pack and convert planned, and say what the reader of the file must know."""
    how = _with_config(plan, how)
    save(
        report, plan.pieces, out, how, command=command, format=format, layers=plan.layers, dry_run=dry_run, heads=heads
    )
    explain_rest(report, plan.pieces, out)
    _say_what_is_new(plan, target)


def save_ranks(
    report: Report,
    plan: Plan,
    target: Target,
    ranks: Ranks,
    out: Path,
    how: How,
    *,
    format: str,
    dry_run: bool,
    heads: HeadChanges | None = None,
) -> None:
    """Write what convert planned as the shares of ranks, or say what the first of them would hold."""
    from qkvinspect.cli.progress import Bar
    from qkvinspect.export import require_writable, shared_out, write_ranks
    from qkvinspect.render.results.rewriting import Rewriting

    shares = shared_out(plan.pieces, ranks)
    if dry_run:
        require_writable(report, shares, ranks, out)
    else:
        with Bar("writing") as bar:
            write_ranks(report, plan.pieces, ranks, target.layout, out, how, bar.advance)
    result = Rewriting(
        path=str(out),
        num_tensors=len(plan.pieces),
        tensors=shares[0],
        layers=plan.layers,
        nbytes=sum(piece.nbytes for own in shares for piece in own),
        files=None,
        ranks=ranks.count,
        written=not dry_run,
        verified=how.verify and not dry_run,
        findings=report.findings,
        heads=heads,
    )
    _put(result, "convert", format)
    explain_rest(report, plan.pieces, out)
    _say_what_is_new(plan, target)


def _with_config(plan: Plan, how: How) -> How:
    """With what an adapter's config says, in the place where diffusers keeps it in the file itself."""
    from dataclasses import replace

    modules = (piece.name.partition(".")[0] for piece in plan.pieces if piece.name.endswith(".lora_B.weight"))
    first = next(modules, None)
    if not plan.adapter or first is None:
        return how
    said = {f"{first}.{key}": value for key, value in plan.adapter.items()}
    return replace(how, metadata={"lora_adapter_metadata": json.dumps(said)})


def _say_what_is_new(plan: Plan, target: Target) -> None:
    if plan.adapter:
        note(f"info: the adapter_config.json of the result has to say: {json.dumps(plan.adapter)}")
    if plan.zeros:
        shown = ", ".join(f"{part.upper()} of {layer}" for layer, part in plan.zeros[:3])
        note(f"info: zeros stand for the bias of {shown}{', ...' if len(plan.zeros) > 3 else ''}")
    if plan.put_back:
        note(f"info: rows that llama.cpp's converter permuted lie in transformers' order in {plan.put_back} layers")
    if target.layout.needs_config:
        note(
            f"info: names do not tell this layout: read it with --layout {target.layout.id}, or with the model's config"
        )
