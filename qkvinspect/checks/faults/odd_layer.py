"""A layer has another size than the rest of its stack.

Layers whose names differ in their last number only are a stack. Where at least four share embed_dim, num_heads,
num_kv_heads and head_dim and at most a quarter differ, those are named: a layer of another model was copied in, or
its heads were cut. Pruned models differ by intent.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject, outvoted
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import describe

CODE: FindingCode = FindingCode.ODD_LAYER


def find(subject: Subject) -> Iterator[Fault]:
    for stack in subject.stacks.values():
        sizes = {attention.layer: _sizes(attention) for attention in stack if attention.parts}
        if vote := outvoted(sizes):
            usual, count, odd = vote
            for layer in odd:
                yield layer, f"it has {sizes[layer]}, where {count} others of its stack have {usual}"


def _sizes(attention: Attention) -> str:
    parts = ", ".join(f"{part.name.upper()} {list(part.shape)}" for part in attention.parts)
    return f"{describe(attention.heads)}, {parts}" if attention.heads else parts
