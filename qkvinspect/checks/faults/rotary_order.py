"""The rows of Q or K are in another order than this format and architecture need for rotary embeddings.

The weights tell which rows of a head turn together. Converters between transformers, llama.cpp and Meta's own form
permute them; where that was forgotten for one of Q and K, done twice, or done to K with the number of heads of Q, the
model runs and talks nonsense. Only architectures whose order is known, and that turn all rows of a head, are judged,
and only where the weights decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.facts.scopes import speaking
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts.layout import Turn

CODE: FindingCode = FindingCode.ROTARY_ORDER_AGAINST_WEIGHTS

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


def find(subject: Subject) -> Iterator[Fault]:
    from qkvinspect.inspection.evidence.rotary_order import in_words, weigh_orders

    stacks: dict[object, list[Attention]] = {}
    for attention in subject.attentions:
        needed = _needed(attention, subject.report)
        if needed is not None:
            shapes = tuple(weight.shape for weight in attention.weights)
            stacks.setdefault((needed, shapes, str(attention.heads)), []).append(attention)
    for key, stack in stacks.items():
        needed = cast("tuple[Turn, object, object]", key)[0]
        found = weigh_orders(stack)
        if found is None or not found.decided or (found.q, found.k) == (needed, needed):
            continue
        q, k = stack[0].part("q"), stack[0].part("k")
        heads = {"q": len(q.heads) if q else 0, "k": len(k.heads) if k else 0}
        wrong = [in_words(found.q, heads, "q")] if found.q != needed else []
        wrong += [in_words(found.k, heads, "k")] if found.k != needed else []
        text = " and ".join(wrong)
        right = "in halves" if needed == "halves" else "of both halves in turn"
        for attention in stack:
            yield attention.layer, f"{text}; this format and architecture need the rows of each head {right}"


def _needed(attention: Attention, report: Report) -> Turn | None:
    """The order that a layer must have; None where it is not known, or where the weights cannot be decoded."""
    layout, parts = attention.layout, {part.name for part in attention.parts}
    if layout is None or attention.heads is None or not {"q", "k"} <= parts:
        return None
    if any(weight.no_values for weight in attention.weights) or layout.kind != "separate":
        return None
    if layout.rotary is not None:
        return layout.rotary
    for config in report.checkpoint.configs:
        for _, values in speaking(config, attention.layer):
            kind = values.get("model_type", values.get("architecture"))
            if isinstance(kind, str):
                return _of_architecture(kind) if _turns_all(values) else None
    return None


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
