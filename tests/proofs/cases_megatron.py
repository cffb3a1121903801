"""megatron-core: linear_qkv and linear_kv, on one process and without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from case import Case
from nesting import block
from torch import nn
from torch.nn import functional

E, H, D = 16, 4, 6


class Core(nn.Module):
    """Stands where Megatron's GPU kernels stand: it gets q, k and v as [tokens, batch, heads, head_dim]."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: object, **__: object
    ) -> torch.Tensor:
        q, k, v = (part.permute(1, 2, 0, 3) for part in (query, key, value))
        out = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return out.permute(2, 0, 1, 3).flatten(2)


def attention(cross: bool = False, **kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from megatron.core import parallel_state, tensor_parallel
        from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
        from megatron.core.transformer import attention as home
        from megatron.core.transformer.enums import AttnMaskType
        from megatron.core.transformer.transformer_config import TransformerConfig

        if not parallel_state.model_parallel_is_initialized():
            parallel_state.initialize_model_parallel(1)
        del tensor_parallel
        config = TransformerConfig(
            num_layers=1, hidden_size=E, num_attention_heads=H, kv_channels=D, use_cpu_initialization=True,
            gradient_accumulation_fusion=False, **kwargs,
        )  # fmt: skip
        linear = {"core_attention": Core, "linear_proj": RowParallelLinear}
        if cross:
            parts = home.CrossAttentionSubmodules(
                linear_q=ColumnParallelLinear, linear_kv=ColumnParallelLinear, **linear
            )
            return home.CrossAttention(config, parts, layer_number=1, attn_mask_type=AttnMaskType.no_mask)
        parts = home.SelfAttentionSubmodules(linear_qkv=ColumnParallelLinear, **linear)
        return home.SelfAttention(config, parts, layer_number=1, attn_mask_type=AttnMaskType.no_mask)

    return build


def run(module: nn.Module) -> object:
    return module(torch.randn(3, 2, E).double(), None)


def crossed(module: nn.Module) -> object:
    return module(torch.randn(3, 2, E).double(), None, key_value_states=torch.randn(4, 2, E).double())


def mcore(id: str, kv_heads: int = 0, **kwargs: Any) -> Case:
    sizes = {"num_query_groups": kv_heads} if kv_heads else {}
    return block(id, "megatron-core", attention(**sizes, **kwargs), "linear_qkv.weight",
                 "decoder.layers.0.self_attention", H, D, run=run, kv_heads=kv_heads,
                 layout_flag="megatron-core-gated" if "attention_output_gate" in kwargs else "",
                 late_biases=("linear_qkv.bias",) if kwargs.get("add_bias_linear", True) else ())  # fmt: skip


CASES = [
    mcore("megatron-core.mha"),
    mcore("megatron-core", 2),
    mcore("megatron-core.no-bias", 2, add_bias_linear=False),
    mcore("megatron-core.mqa", 1),
    mcore("megatron-core.bias", 2, add_qkv_bias=True),
    mcore("megatron-core-gated", 2, attention_output_gate=True),
    block(
        "megatron-core-cross",
        "megatron-core",
        attention(cross=True),
        ("linear_q.weight", "linear_kv.weight"),
        "decoder.layers.0.cross_attention",
        H,
        D,
        run=crossed,
        late_biases=("linear_q.bias", "linear_kv.bias"),
    ),
]
