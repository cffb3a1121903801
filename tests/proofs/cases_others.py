"""Other libraries: MONAI, segment-anything, DINOv2's own code, lucidrains' diffusion."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from environment import without
from nesting import block
from torch import nn

E, H, D = 12, 4, 3


def make(target: str, *args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        home, _, name = target.partition(":")
        return getattr(importlib.import_module(home), name)(*args, **kwargs)

    return build


def lucidrains() -> nn.Module:
    with without("accelerate"):
        from denoising_diffusion_pytorch.denoising_diffusion_pytorch import Attention

    return Attention(E, heads=H, dim_head=5)


CASES = [
    block(
        "monai-sablock",
        "monai",
        make("monai.networks.blocks.selfattention:SABlock", E, H, qkv_bias=True),
        "qkv.weight",
        "blocks.0.attn",
        H,
        D,
        shape=(2, 3, E),
    ),
    block(
        "sam.segment-anything",
        "segment_anything",
        make("segment_anything.modeling.image_encoder:Attention", E, H, use_rel_pos=True, input_size=(2, 3)),
        "qkv.weight",
        "image_encoder.blocks.0.attn",
        H,
        D,
        shape=(2, 2, 3, E),
        heads_flag=False,
        note="rel_pos_h has the width of a head",
    ),
    block(
        "timm-vit.dinov2",
        "dinov2",
        make("dinov2.layers.attention:Attention", E, H, qkv_bias=True),
        "qkv.weight",
        "blocks.0.attn",
        H,
        D,
        shape=(2, 3, E),
    ),
    block(
        "lucidrains-conv-to-qkv",
        "denoising-diffusion-pytorch",
        lucidrains,
        "to_qkv.weight",
        "mid_attn.fn",
        H,
        5,
        shape=(2, E, 2, 3),
        note="memory keys stand before the tokens",
    ),
]
