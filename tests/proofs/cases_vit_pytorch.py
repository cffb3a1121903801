"""vit-pytorch: to_qkv, to_kv, qkv; linear layers and convolutions."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from case import Case
from nesting import block
from torch import nn

E, H, D = 8, 3, 5
KEYS = {"heads": H, "dim_head": D}


def make(target: str, *args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        home, _, name = target.partition(":")
        return getattr(importlib.import_module(f"vit_pytorch.{home}"), name)(*args, **kwargs)

    return build


def vp(
    id: str, target: str, tensors: str | tuple[str, ...], prefix: str, shape: tuple[int, ...] = (2, 4, E), **rest: Any
) -> Case:
    args = rest.pop("args", (E,))
    kwargs = rest.pop("kwargs", KEYS)
    sizes = {"heads": H, "head_dim": D, **rest}
    return block(id, "vit-pytorch", make(target, *args, **kwargs), tensors, prefix, shape=shape, **sizes)


LAYER = "transformer.layers.0.0"
CASES = [
    vp("vit-pytorch", "vit:Attention", "to_qkv.weight", LAYER),
    vp("vit-pytorch.simple-vit", "simple_vit:Attention", "to_qkv.weight", LAYER),
    vp("vit-pytorch.deepvit", "deepvit:Attention", "to_qkv.weight", LAYER),
    vp("vit-pytorch.pit", "pit:Attention", "to_qkv.weight", "layers.3.layers.0.0"),
    vp(
        "vit-pytorch.mobile-vit",
        "mobile_vit:Attention",
        "to_qkv.weight",
        "mvit.0.1.transformer.layers.0.0.fn",
        (2, 3, 4, E),
        note="one more axis of patches",
    ),
    vp(
        "vit-pytorch.crossformer-conv",
        "crossformer:Attention",
        "to_qkv.weight",
        "layers.0.1.layers.0.0",
        (1, 10, 4, 4),
        args=(10,),
        kwargs={"attn_type": "short", "window_size": 2, "dim_head": D},
        heads=2,
        dtype=torch.float32,
    ),
    vp(
        "vit-pytorch.nest-conv",
        "nest:Attention",
        "to_qkv.weight",
        "layers.0.0.layers.0.0",
        (1, 12, 2, 2),
        args=(12,),
        kwargs={"heads": H},
        head_dim=4,
    ),
    vp(
        "vit-pytorch-to-kv.cait",
        "cait:Attention",
        ("to_q.weight", "to_kv.weight"),
        "cls_transformer.layers.0.0.fn",
        run=lambda m: m(torch.randn(2, 1, E).double(), context=torch.randn(2, 4, E).double()),
    ),
    vp(
        "vit-pytorch-to-kv.cross-vit",
        "cross_vit:Attention",
        ("to_q.weight", "to_kv.weight"),
        "multi_scale_encoder.layers.0.0.layers.0.0",
    ),
    vp(
        "vit-pytorch-to-kv.twins-conv",
        "twins_svt:GlobalAttention",
        ("to_q.weight", "to_kv.weight"),
        "layers.0.3.layers.0.2.fn",
        (1, E, 4, 4),
        kwargs={"heads": H, "dim_head": D, "k": 1},
    ),
    vp(
        "vit-pytorch-cct",
        "cct:Attention",
        "qkv.weight",
        "classifier.blocks.0.self_attn",
        (2, 4, 12),
        args=(12,),
        kwargs={"num_heads": H},
        head_dim=4,
    ),
    vp(
        "vit-pytorch.max-vit",
        "max_vit:Attention",
        "to_qkv.weight",
        "layers.0.1.fn",
        (1, 1, 1, 2, 2, 15),
        args=(15,),
        kwargs={"dim_head": D, "window_size": 2},
    ),
    vp(
        "vit-pytorch.xcit",
        "xcit:XCAttention",
        "to_qkv.weight",
        "xcit_transformer.layers.0.0",
        (1, 1, 7, E),
        over_tokens=True,
        note="attention over channels",
    ),
]
