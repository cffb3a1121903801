"""What inspection finds of a module, in the form of the JSON contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkvinspect.inspection.as_stored import stored_axis, stored_runs, stored_shape
from qkvinspect.inspection.json_values import number, row_ranges
from qkvinspect.weights.weight import Weight

if TYPE_CHECKING:
    from qkvinspect.inspection.report import Attention, Measure, Part
    from qkvinspect.inspection.verdict import Evidence


def tensor_to_json(weight: Weight, status: str) -> dict[str, object]:
    """Where a tensor belongs."""
    return {"name": weight.name, "shape": list(weight.shape), "dtype": weight.dtype.name, "belongs_to": status}


def attention_to_json(attention: Attention) -> dict[str, object]:
    """A module as report.schema.json has it."""
    layout, heads = attention.layout, attention.heads
    return {
        "layer": attention.layer,
        "layout": layout.id if layout else None,
        "layout_from": attention.layout_from,
        "candidates": list(attention.candidates),
        "found_by": attention.found_by,
        "kind": layout.kind if layout else None,
        "tensors": attention.tensors,
        "stored": {info.name: list(stored_shape(info)) for info in attention.weights},
        "dtype": attention.dtype,
        "embed_dim": attention.embed_dim,
        "num_heads": heads.num_heads if heads else None,
        "num_kv_heads": heads.num_kv_heads if heads else None,
        "head_dim": heads.width("q") if heads else None,
        "v_head_dim": heads.width("v") if heads else None,
        "num_heads_from": attention.heads_from,
        "possible_num_heads": list(attention.possible_heads),
        "evidence": _evidence(attention.evidence),
        **{name: _part(attention, attention.part(name)) for name in ("q", "k", "v")},
        "extras": {info.name: meaning for info, meaning in attention.extras},
    }


def _evidence(evidence: Evidence | None) -> dict[str, object] | None:
    """The answers, without the weighing."""
    if evidence is None:
        return None
    heads, packings = evidence.heads, evidence.packings
    silent = None if heads or packings else 0.0  # they were asked and have nothing to say: not trained yet
    return {
        "num_heads": heads.best.num_heads if heads and heads.decided else None,
        "num_heads_confidence": round(heads.confidence, 4) if heads else silent,
        "packing": packings.best.label if packings and packings.decided else None,
        "packing_confidence": round(packings.confidence, 4) if packings else silent,
    }


def _part(attention: Attention, part: Part | None) -> dict[str, object] | None:
    if part is None:
        return None
    heads: list[dict[str, object]] = []
    if attention.heads is not None:
        measures: Sequence[Measure | None] = part.head_measures or [None] * len(part.heads)
        heads = [
            {
                "head": head,
                "rows": row_ranges(stored_runs(part, [rows])),
                "axis": stored_axis(part),
                **({"ranks": list(part.head_ranks[head])} if part.head_ranks else {}),
                **_measure(measure),
            }
            for head, (rows, measure) in enumerate(zip(part.heads, measures, strict=True))
        ]
    return {
        "shape": list(part.shape),
        "rows": row_ranges(stored_runs(part, part.rows)),
        "axis": stored_axis(part),
        **_measure(part.measured),
        "bias_norm": number(part.bias_measured.norm) if part.bias_measured else None,
        "bias_nonfinite": part.bias_measured.nonfinite if part.bias_measured else None,
        "heads": heads,
    }


def _measure(measure: Measure | None) -> dict[str, object]:
    if measure is None:
        return {"norm": None, "nonfinite": None}
    return {"norm": number(measure.norm), "nonfinite": measure.nonfinite}
