"""Layers of libraries whose models need more than themselves: built alone, under the path that their models give."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from tests.census.model import Model

Maker = Callable[[Any], nn.Module]
Runner = Callable[[nn.Module], object]
X = (2, 7, 32)


def _self(module: nn.Module) -> object:
    return module(torch.randn(X))


def _three(module: nn.Module) -> object:
    tokens = torch.randn(X)
    return module(tokens, tokens, tokens)


def _three_and_none(module: nn.Module) -> object:
    tokens = torch.randn(X)
    return module(tokens, tokens, tokens, None)


def _positions(module: nn.Module) -> object:
    tokens = torch.randn(X)
    return module(tokens, tokens, tokens, pos_embs=torch.randn(1, 13, 32))


LAYERS: tuple[tuple[str, str, str, Maker, Runner, str], ...] = (
    ("torch", "torch.nn", "TransformerEncoderLayer", lambda m: m.TransformerEncoderLayer(32, 4), _self,
     "encoder.layers.0"),
    ("torch", "torch.nn", "TransformerDecoderLayer", lambda m: m.TransformerDecoderLayer(32, 4),
     lambda d: d(torch.randn(X), torch.randn(X)), "decoder.layers.0"),
    ("torch", "torch.nn", "MultiheadAttention.kdim", lambda m: m.MultiheadAttention(32, 4, kdim=32, vdim=24),
     lambda a: a(torch.randn(X), torch.randn(X), torch.randn(2, 7, 24)), "attn"),
    ("speechbrain", "speechbrain.nnet.attention", "MultiheadAttention", lambda m: m.MultiheadAttention(4, 32), _three,
     "encoder.layers.0.self_att"),
    ("speechbrain", "speechbrain.nnet.attention", "RelPosMHAXL", lambda m: m.RelPosMHAXL(32, 4), _positions,
     "encoder.layers.0.mha_layer"),
    ("speechbrain", "speechbrain.nnet.attention", "RoPEMHA", lambda m: m.RoPEMHA(32, 4), _three,
     "encoder.layers.0.mha_layer"),
    ("espnet", "espnet2.legacy.nets.pytorch_backend.transformer.attention", "MultiHeadedAttention",
     lambda m: m.MultiHeadedAttention(4, 32, 0.0), _three_and_none, "encoders.0.self_attn"),
    ("espnet", "espnet.nets.pytorch_backend.transformer.attention", "MultiHeadedAttention",
     lambda m: m.MultiHeadedAttention(4, 32, 0.0), _three_and_none, "encoders.0.self_attn"),
    ("esm", "esm.layers.attention", "MultiHeadAttention", lambda m: m.MultiHeadAttention(32, 4),
     lambda a: a(torch.randn(X), None), "transformer.blocks.0.attn"),
    ("torchvision", "torchvision.models.vision_transformer", "vit_b_16",
     lambda m: m.VisionTransformer(32, 16, 2, 4, 32, 64), lambda v: v(torch.randn(1, 3, 32, 32)), ""),
    ("torchvision", "torchvision.models.swin_transformer", "swin_t",
     lambda m: m.SwinTransformer([4, 4], 32, [1, 1], [2, 4], [4, 4]), lambda v: v(torch.randn(1, 3, 64, 64)), ""),
    ("torchvision", "torchvision.models.swin_transformer", "swin_v2_t",
     lambda m: m.SwinTransformer([4, 4], 32, [1, 1], [2, 4], [4, 4], block=m.SwinTransformerBlockV2,
                                 downsample_layer=m.PatchMergingV2),
     lambda v: v(torch.randn(1, 3, 64, 64)), ""),
    ("torchvision", "torchvision.models.maxvit", "maxvit_t",
     lambda m: m.maxvit_t(), lambda v: v(torch.randn(1, 3, 224, 224)), ""),
)  # fmt: skip


class _Placed(nn.Module):
    """A layer under the path that it has in a model."""

    def __init__(self, path: str, layer: nn.Module) -> None:
        super().__init__()
        *above, last = path.split(".")
        at: nn.Module = self
        for name in above:
            at.add_module(name, nn.Module())
            at = at.get_submodule(name)
        at.add_module(last, layer)
        self.layer = [layer]


def _build(home: str, maker: Maker, path: str) -> nn.Module:
    layer = maker(importlib.import_module(home))
    return _Placed(path, layer) if path else layer


def _run(module: nn.Module, runner: Runner) -> object:
    return runner(module.layer[0] if isinstance(module, _Placed) else module)


def models() -> Iterator[Model]:
    for lib, home, name, maker, runner, path in LAYERS:
        yield Model(
            lib,
            name,
            lambda home=home, maker=maker, path=path: _build(home, maker, path),
            lambda module, runner=runner: _run(module, runner),
        )
