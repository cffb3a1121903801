"""A whole checkpoint with its heads aligned to another's, or merged: what ``convert`` writes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qkvinspect.errors import UsageError
from qkvinspect.inspection.json_values import number
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.lineage.alignment import AlignedLayer, align
from qkvinspect.lineage.merging import MergedLayer, merge_heads
from qkvinspect.lineage.positions import positions
from qkvinspect.lineage.relatives import nbytes
from qkvinspect.lineage.sampled_heads import cannot_compare
from qkvinspect.lineage.whole_heads import made_anew
from qkvinspect.progress import Progress, counter


@dataclass(frozen=True, slots=True)
class HeadChanges:
    """What was done to heads.

    Attributes:
        added: layers that the other checkpoint has not, which stay as they are.
    """

    aligned: tuple[AlignedLayer, ...] = ()
    added: tuple[str, ...] = ()
    merged: tuple[MergedLayer, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Its form in the JSON contract."""
        return {
            "aligned": [
                {"layer": one.b.layer, "to": one.a.layer, "partners": list(one.partners), "undone": list(one.undone)}
                for one in self.aligned
            ],
            "left": list(self.added),
            "merged": [_merged(one) for one in self.merged],
        }


def _merged(one: MergedLayer) -> dict[str, object]:
    def errors(qk: float, ov: float) -> dict[str, object]:
        return {"qk": number(qk), "ov": number(ov)}

    return {
        "layer": one.layer,
        "mean_of_neighbours": errors(*one.plain),
        "aligned": errors(*one.aligned),
        "groups": [
            {
                "kv_heads": list(group.members),
                "mean": errors(group.plain_qk, group.plain_ov),
                "aligned": errors(group.qk, group.ov),
            }
            for group in one.groups
        ],
    }


def aligned(b: Report, a: Report, rotary: str | None, progress: Progress | None = None) -> tuple[Report, HeadChanges]:
    """B with the order and basis of A's heads; both must still be open.

    Raises:
        CheckpointError: the bytes cannot be read.
        UsageError: a layer cannot be aligned without changing what it computes, or the two are no kin.
    """
    _require_comparable(b)
    found = align(a, b, [positions(b, one, rotary) for one in b.attentions], progress)
    for layer, why in found.left:
        raise UsageError(
            f"layer {layer!r} cannot be aligned: {why}", file=b.checkpoint.path, hint="leave it out with --layer"
        )
    anew = {one.b.layer: one.b for one in found.layers}
    report = replace(b, attentions=tuple(anew.get(one.layer, one) for one in b.attentions))
    return report, HeadChanges(found.layers, found.added)


def merged(
    report: Report, kv_heads: int, rotary: str | None, before: HeadChanges, progress: Progress | None = None
) -> tuple[Report, HeadChanges]:
    """A checkpoint with so many heads of K and V in each layer; it must still be open.

    Raises:
        CheckpointError: the bytes cannot be read.
        UsageError: a layer cannot have so many, or its heads cannot be turned.
    """
    _require_comparable(report)
    allowed = [positions(report, one, rotary) for one in report.attentions]
    advance = counter(sum(map(nbytes, report.attentions)), progress)
    layers: list[Attention] = []
    found: list[MergedLayer] = []
    for one, said in zip(report.attentions, allowed, strict=True):
        merged_layer = merge_heads(one, kv_heads, said)
        found.append(merged_layer)
        layers.append(made_anew(one, merged_layer.anew))
        advance(nbytes(one))
    return replace(report, attentions=tuple(layers)), replace(before, merged=tuple(found))


def _require_comparable(report: Report) -> None:
    for one in report.attentions:
        if why := cannot_compare(one):
            raise UsageError(
                f"the heads of layer {one.layer!r} cannot be changed: {why}",
                file=report.checkpoint.path,
                hint="leave it out with --layer",
            )
