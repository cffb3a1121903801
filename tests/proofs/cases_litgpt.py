"""litgpt: its layout of today, and the older one that its loader still reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from case import Case, State, ids
from torch import nn

SIZES = {"n_layer": 1, "n_head": 4, "n_embd": 16, "head_size": 6, "padded_vocab_size": 12, "block_size": 4,
         "rotary_percentage": 1.0, "intermediate_size": 8, "bias": False}  # fmt: skip
KEY = "transformer.h.0.attn."


def gpt(**kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from litgpt import GPT, Config

        return GPT(Config(**SIZES, **kwargs))

    return build


def legacy(module: nn.Module) -> State:
    """The same tensors under the name that litgpt had before 0.5."""
    return {name.replace("attn.qkv.", "attn.attn."): t.detach().clone() for name, t in module.state_dict().items()}


def case(id: str, kv_heads: int, old: bool) -> Case:
    renamed = {f"{KEY}qkv.weight": f"{KEY}attn.weight"} if old else {}
    config = {**SIZES, "n_query_groups": kv_heads}
    return Case(
        id, "litgpt", gpt(n_query_groups=kv_heads), lambda module: module(ids()), (f"{KEY}qkv.weight",), 4, 6,
        kv_heads=kv_heads, config=config, loads=legacy if old else None, renamed=renamed,
        note="the loader rewrites this older file" if old else "",
    )  # fmt: skip


CASES = [
    case("litgpt", 2, old=False),
    case("litgpt.mha", 4, old=False),
    case("litgpt.mqa", 1, old=False),
    case("litgpt-legacy", 2, old=True),
    case("litgpt-legacy.mha", 4, old=True),
    case("litgpt-legacy.mqa", 1, old=True),
]
