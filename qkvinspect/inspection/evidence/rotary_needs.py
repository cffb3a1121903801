"""Which order of the rows in each head of Q and K a file's format and architecture need for rotary embeddings."""

from __future__ import annotations

from typing import cast

from qkvinspect.inspection.facts.scopes import speaking
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts.layout import Turn

_HALVES = frozenset(
    {
        "apertus",
        "arcee",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "granite",
        "granitemoe",
        "llama",
        "mistral",
        "mixtral",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "qwen2",
        "qwen2_moe",
        "qwen2moe",
        "qwen3",
        "qwen3_moe",
        "qwen3moe",
        "smollm3",
        "starcoder2",
    }
)
"""Architectures of transformers, and of GGUF where it keeps transformers' rows: apply_rotary_pos_emb, rotate_half."""

_NEIGHBOURS = frozenset({"cohere", "cohere2"})
"""Those whose rotate_half takes every other row: models/cohere/modeling_cohere.py."""


def needed_order(attention: Attention, report: Report) -> Turn | None:
    """The order that a layer must have; None where it is not known, or where the weights cannot be decoded."""
    layout, parts = attention.layout, {part.name for part in attention.parts}
    if layout is None or attention.heads is None or not {"q", "k"} <= parts:
        return None
    if any(weight.no_values for weight in attention.weights) or layout.kind != "separate":
        return None
    needed, width = layout.rotary, attention.heads.width("q")
    for config in report.checkpoint.configs:
        for _, values in speaking(config, attention.layer):
            kind = values.get("model_type", values.get("architecture"))
            if isinstance(kind, str):
                turns = _turns_all(values) and values.get(f"{kind}.rope.dimension_count", width) == width
                return (needed or _of_architecture(kind)) if turns else None
    return needed


def says_that_all_turn(attention: Attention, report: Report) -> bool:
    """Whether a file says that all rows of a head turn: GGUF's metadata does, and a config that says nothing else."""
    if report.checkpoint.format != "gguf":
        return True
    width = attention.heads.width("q") if attention.heads is not None else 0
    every = (values for config in report.checkpoint.configs for _, values in speaking(config, attention.layer))
    return any(values.get(f"{values.get('architecture')}.rope.dimension_count") == width for values in every)


def _of_architecture(kind: str) -> Turn | None:
    return "halves" if kind in _HALVES else "neighbours" if kind in _NEIGHBOURS else None


def _turns_all(values: object) -> bool:
    """Whether a rotary embedding turns all rows of a head."""
    if not isinstance(values, dict):
        return True
    for key, value in cast("dict[str, object]", values).items():
        if key in ("partial_rotary_factor", "rotary_pct") and value not in (None, 1, 1.0):
            return False
        if key in ("rope_parameters", "rope_scaling") and not _turns_all(value):
            return False
    return True
