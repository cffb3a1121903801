"""open_clip: its own attention, and the towers that use torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from case import Case, image
from nesting import block
from torch import nn

E, H, D = 12, 4, 3


def own(**kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from open_clip.transformer import Attention

        return Attention(E, H, **kwargs)

    return build


def pooler() -> nn.Module:
    from open_clip.transformer import AttentionalPooler

    return AttentionalPooler(d_model=E, context_dim=E + 2, n_head=H, n_queries=2)


def clip() -> nn.Module:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=1, width=E, head_width=D, patch_size=4, image_size=8, mlp_ratio=1)
    return CLIP(8, vision, CLIPTextCfg(context_length=4, vocab_size=8, width=E, heads=H, layers=1, mlp_ratio=1))


def run(module: nn.Module) -> object:
    return module(image(8), torch.ones(1, 4, dtype=torch.long))


CASES = [
    block(
        "open_clip-attn",
        "open_clip_torch",
        own(),
        "in_proj_weight",
        "visual.transformer.resblocks.0.attn",
        H,
        D,
        shape=(2, 3, E),
    ),
    block(
        "open_clip-attn.head-scale",
        "open_clip_torch",
        own(scale_heads=True),
        "in_proj_weight",
        "visual.transformer.resblocks.0.attn",
        H,
        D,
        shape=(2, 3, E),
        heads_flag=False,
        note="head_scale tells the heads; scaled_cosine does not run in this version (bmm of four axes)",
    ),
    block(
        "torch-mha-split.coca-pooler",
        "open_clip_torch",
        pooler,
        tuple(f"attn.{part}_proj_weight" for part in "qkv"),
        "visual.attn_pool",
        H,
        D,
        shape=(2, 3, E + 2),
    ),
    Case(
        "torch-mha.clip-visual",
        "open_clip_torch",
        clip,
        run,
        ("visual.transformer.resblocks.0.attn.in_proj_weight",),
        H,
        D,
        heads_flag=True,
        keep=("visual.transformer.",),
    ),
    Case(
        "torch-mha.clip-text",
        "open_clip_torch",
        clip,
        run,
        ("transformer.resblocks.0.attn.in_proj_weight",),
        H,
        D,
        heads_flag=True,
        keep=("transformer.",),
    ),
]
