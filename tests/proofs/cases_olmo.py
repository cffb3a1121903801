"""ai2-olmo: att_proj of OLMo 1; and lucidrains' PaLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from case import Case, ids
from environment import without
from nesting import block
from torch import nn

SIZES = {"d_model": 16, "n_heads": 4, "n_layers": 1, "mlp_ratio": 1, "vocab_size": 12, "embedding_size": 12,
         "max_sequence_length": 4, "include_bias": False, "rope": True, "flash_attention": False,
         "activation_type": "swiglu", "layer_norm_type": "rms"}  # fmt: skip


def olmo(**kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        names = (
            "datasets",
            "olmo_data",
            "olmo_data.data",
            "google",
            "google.api_core",
            "google.api_core.retry",
            "cached_path",
            "cached_path.schemes",
        )
        with without(*names):
            from olmo.config import ActivationType, LayerNormType, ModelConfig
            from olmo.model import OLMo

        kinds = {"activation_type": ActivationType.swiglu, "layer_norm_type": LayerNormType.rms}
        return OLMo(ModelConfig(**{**SIZES, **kinds, **kwargs}, init_device="cpu"))

    return build


def case(id: str, **kwargs: Any) -> Case:
    kv_heads = 1 if kwargs.get("multi_query_attention") else kwargs.get("n_kv_heads", 4)
    return Case(
        id, "ai2-olmo", olmo(**kwargs), lambda module: module(ids()), ("transformer.blocks.0.att_proj.weight",), 4, 4,
        kv_heads=kv_heads, config={**SIZES, **kwargs, "model_type": "hf_olmo"}, single=True,
    )  # fmt: skip


def palm() -> nn.Module:
    from palm_rlhf_pytorch.palm import ParallelTransformerBlock

    return ParallelTransformerBlock(12, dim_head=4, heads=3, ff_mult=1, qk_rmsnorm=False)


CASES = [
    case("olmo"),
    case("olmo.gqa", n_kv_heads=2),
    case("olmo.mqa", multi_query_attention=True),
    block(
        "palm",
        "palm-rlhf-pytorch",
        palm,
        "fused_attn_ff_proj.weight",
        "layers.0.fn",
        3,
        4,
        kv_heads=1,
        single=True,
        run=lambda module: module(torch.randn(3, 1, 12).double()),
        note="rows of the MLP come last",
    ),
]
