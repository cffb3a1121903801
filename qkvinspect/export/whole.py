"""A whole checkpoint with some of its layers stored otherwise: what else changes its name, and what must not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.export.pieces import OutputTensor, unchanged
from qkvinspect.finding_codes import QUANTISED
from qkvinspect.inspection.adapters_and_wrappers import scale_of
from qkvinspect.inspection.report import Attention, Report


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one layer.

    Attributes:
        layer: its name, and what it will be called.
        consumed: the stored tensors that ``pieces`` stand in for.
    """

    layer: tuple[str, str]
    consumed: frozenset[str]
    pieces: tuple[OutputTensor, ...]
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])


def whole(
    report: Report, changes: Iterable[Change], rename: Callable[[str], str] = lambda name: name
) -> list[OutputTensor]:
    """Every tensor of the checkpoint, in its order, with the changed layers in their places.

    Raises:
        LayoutError: two tensors would have the same name.
    """
    changes = list(changes)
    by_tensor = {name: change for change in changes for name in change.consumed}
    moved = {old: new for change in changes for old, new in change.renamed.items()}
    prefixes = {change.layer[0]: change.layer[1] for change in changes if change.layer[0] != change.layer[1]}
    pieces: dict[str, OutputTensor] = {}
    written: set[int] = set()
    for name, info in report.checkpoint.tensors.items():
        change = by_tensor.get(name)
        if change is None:
            found = [unchanged(info, moved.get(name) or _below(name, prefixes))]
        elif id(change) in written:
            continue
        else:
            written.add(id(change))
            found = list(change.pieces)
        for piece in found:
            new = rename(piece.name)
            if new in pieces or not new:
                raise LayoutError(
                    "two tensors would have this name" if new else "would have no name",
                    tensor=new or piece.name,
                    found=" and ".join(i.name for p in (pieces.get(new), piece) if p for i in p.sources[:1]),
                    hint="give other names with --names or --rename, or choose layers with --layer",
                )
            pieces[new] = replace(piece, name=new)
    return list(pieces.values())


def _below(name: str, prefixes: Mapping[str, str]) -> str:
    """The other tensors of a layer move with it."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        old = ".".join(parts[:count])
        if old in prefixes:
            return ".".join([prefixes[old], *parts[count:]]).removeprefix(".")
    return name


def require_plain(report: Report, attention: Attention) -> None:
    """Refuse a layer whose rows mean nothing without tensors beside them, which would stay as they are.

    Raises:
        LayoutError: it is quantised or adapted.
    """
    tensors: Mapping[str, TensorInfo] = report.checkpoint.tensors
    reason = ""
    if any(scale_of(info, tensors) for info in attention.weights):
        reason = "its weights have scales beside them; dequantise the model and save it"
    elif any(".lora_" in info.name or ".base_layer." in info.name for info in attention.weights):
        reason = "it has a LoRA adapter; merge it into the model and save it"
    elif any(f.layer == attention.layer and f.code in QUANTISED for f in report.findings):
        reason = "it is quantised; dequantise the model and save it"
    if reason:
        raise LayoutError(
            f"layer {attention.layer!r} cannot be rewritten: {reason}", hint="or leave it out with --layer"
        )
