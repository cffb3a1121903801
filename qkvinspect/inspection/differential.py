"""Differential attention by its factors: Q and K have more heads than V, so that weights tell no one number for all."""

from __future__ import annotations

from qkvinspect.inspection.names import Names
from qkvinspect.late_pattern import late_pattern

_FACTOR = late_pattern(r"(?:lam|lambda|lambda_init|lambda_[qk]\w*)")
"""As ``lambda_q1`` in transformers models/diffllama/modeling_diffllama.py, DiffLlamaAttention."""


def is_differential(names: Names, layer: str) -> bool:
    """Whether a module has a factor by which one attention is subtracted from another."""
    start = len(layer) + 1 if layer else 0
    return any(_FACTOR.fullmatch(name[start:]) for name in names.below(layer))
