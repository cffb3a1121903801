"""esm: ESM-C and ESM3."""

from __future__ import annotations

import torch
from nesting import block
from torch import nn

E, H, D = 12, 3, 4


def attention(*, norm: bool) -> nn.Module:
    from esm.layers.attention import MultiHeadAttention

    return MultiHeadAttention(E, H, qk_layernorm=norm)


def run(module: nn.Module) -> object:
    return module(torch.randn(3, 1, E).double(), None)


CASES = [
    block(
        "esm-layernorm-qkv",
        "esm",
        lambda: attention(norm=False),
        "layernorm_qkv.1.weight",
        "transformer.blocks.0.attn",
        H,
        D,
        run=run,
    ),
    block(
        "esm-layernorm-qkv.norm",
        "esm",
        lambda: attention(norm=True),
        "layernorm_qkv.1.weight",
        "transformer.blocks.0.attn",
        H,
        D,
        run=run,
        wanted="v",
        note="q_ln and k_ln run over all heads at once and subtract the mean: only v can be traced",
    ),
]
