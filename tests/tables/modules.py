"""Which modules of a built model are attentions, with how many heads: read from their own attributes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

HEADS = ("num_heads", "num_attention_heads", "n_heads", "heads")
"""The attributes under which timm, open_clip, torch and transformers keep a module's own number of heads."""

NOT_ATTENTION = {"RelPosBiasTf", "RelPosMlp", "RotaryEmbeddingMixed"}
"""timm's position biases: they know the number of heads and hold no Q, K and V."""

ONE_KV_HEAD = {"MultiQueryAttention2d", "MultiQueryAttentionV2", "LambdaLayer"}
"""timm's multi-query modules: one K and one V for all heads, with no attribute that says so."""

SINGLE_HEAD = {"SHSA", "SpatialTransformerBlock"}
"""Single-head attention of SHViT and CSATv2, with no attribute that says so."""


@dataclass(frozen=True)
class Heads:
    """A module's heads. ``kv_heads`` is None where there are as many."""

    num_heads: int
    kv_heads: int | None = None


def library() -> None:
    """Let torchvision be imported where its compiled operators do not fit the CPU build of torch.

    timm and open_clip import it for image transforms and a batch norm, nothing that building a model runs.
    """
    warnings.filterwarnings("ignore")
    known = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            known.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    KEPT.append(known)


KEPT: list[Any] = []
"""An operator lives as long as the library object that defined it."""


def attentions(model: nn.Module) -> dict[str, Heads]:
    """Every attention module by its path. A block that repeats the number of the attention in it is left out."""
    found: dict[str, Heads] = {}
    for path, module in model.named_modules():
        if type(module).__name__ == "CascadedGroupAttention":
            # EfficientViT (MSRA): every head has a projection of its own
            found |= {f"{path}.qkvs.{index}": Heads(1) for index in range(len(module.qkvs))}
        elif (heads := _heads(module)) is not None:
            found[path] = heads
    owners = {path[:end] for path in found for end, letter in enumerate(path) if letter == "."}
    return {path: heads for path, heads in found.items() if path not in owners}


def _heads(module: nn.Module) -> Heads | None:
    kind = type(module).__name__
    if kind in NOT_ATTENTION or not any(True for _ in module.parameters()):
        return None
    if kind == "ChannelAttentionV2":  # DaViT of Florence-2: heads of channels, called groups
        return Heads(module.groups)
    if kind == "LiteMLA":  # EfficientViT (MIT): only the width of a head is kept
        return Heads(module.qkv.conv.out_channels // (3 * module.dim))
    if kind in SINGLE_HEAD:
        return Heads(1)
    number = next((value for name in HEADS if type(value := getattr(module, name, None)) is int), None)
    if number is None:
        return None
    kv = 1 if kind in ONE_KV_HEAD else getattr(module, "num_kv_heads", None)
    return Heads(number, kv if isinstance(kv, int) and kv != number else None)
