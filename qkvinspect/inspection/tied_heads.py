"""What ties rows of different heads, so that weights tell no one number for all."""

from __future__ import annotations

from qkvinspect.inspection.names import Names
from qkvinspect.late_pattern import late_pattern

_FACTOR = r"lam|lambda|lambda_init|lambda_[qk]\w*"
"""Differential attention, in which Q and K have more heads than V, as ``lambda_q1`` in transformers
models/diffllama/modeling_diffllama.py, DiffLlamaAttention."""

_MIXING = r"proj_[lw]\.\w+|(?:\w+_)?talking_heads?\w*(?:\.\w+)*|mix_heads_\w+|re_?attn_(?:weights?|matrix\.\w+)"
"""Talking heads, whose logits or probabilities a matrix mixes: timm cait.py, TalkingHeadAttn; x-transformers, Attend;
vit-pytorch cait.py and deepvit.py (re-attention)."""

_TYING = late_pattern(f"(?:{_FACTOR}|{_MIXING})")


def are_tied(names: Names, layer: str) -> bool:
    """Whether a module has what subtracts the attention of one head from another's, or adds them up."""
    start = len(layer) + 1 if layer else 0
    return any(_TYING.fullmatch(name[start:]) for name in names.below(layer))
