"""audiocraft and moshi: in_proj_weight, with fewer kv heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from case import Case, State
from environment import without
from nesting import block
from torch import nn

E, H, D = 12, 4, 3


def audiocraft(**kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with without("xformers", "xformers.ops"):
            from audiocraft.modules import transformer

        transformer._verify_xformers_memory_efficient_compat = lambda: None
        transformer.ops.unbind = torch.unbind
        transformer.set_efficient_attention_backend("torch")
        return transformer.StreamingMultiheadAttention(E, H, dropout=0.0, custom=True, **kwargs)

    return build


def alone(module: nn.Module) -> object:
    x = torch.randn(2, 3, E).double()
    with without("xformers", "xformers.ops"):
        return module(x, x, x)


def moshi(**kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from moshi.modules.transformer import StreamingMultiheadAttention

        return StreamingMultiheadAttention(E, H, **kwargs)

    return build


KEY = "transformer.layers.0.self_attn."


def renamed(module: nn.Module) -> State:
    """The files of Moshi: the module's loader takes in_proj_weight apart, one piece for each step."""
    names = {"in_projs.0.weight": "in_proj_weight", "out_projs.0.weight": "out_proj.weight"}
    return {KEY + names[name.removeprefix(KEY)]: t.detach().clone() for name, t in module.state_dict().items()}


CASES: list[Case] = [
    block("audiocraft", "audiocraft", audiocraft(memory_efficient=True), "in_proj_weight", KEY, H, D, run=alone),
    block(
        "audiocraft.kv-repeat",
        "audiocraft",
        audiocraft(memory_efficient=True, kv_repeat=2, causal=True),
        "in_proj_weight",
        KEY,
        H,
        D,
        kv_heads=2,
        run=alone,
    ),
    block(
        "audiocraft.bias",
        "audiocraft",
        audiocraft(memory_efficient=True, bias=True),
        "in_proj_weight",
        KEY,
        H,
        D,
        run=alone,
    ),
    block(
        "moshi",
        "moshi",
        moshi(),
        "in_projs.0.weight",
        KEY,
        H,
        D,
        run=alone,
        loads=renamed,
        renamed={f"{KEY}in_projs.0.weight": f"{KEY}in_proj_weight"},
        note="the loader renames in_proj_weight",
    ),
    block("moshi.in-projs", "moshi", moshi(), "in_projs.0.weight", KEY, H, D, run=alone),
]
