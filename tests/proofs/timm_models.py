"""Tiny timm models, made and saved as timm does."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from case import Case, image, save_timm
from torch import nn

E, H, D = 12, 4, 3
VIT = {"img_size": 8, "patch_size": 4, "embed_dim": E, "depth": 1, "num_heads": H, "mlp_ratio": 1, "num_classes": 0}


def create(name: str, kwargs: dict[str, Any]) -> Callable[[], nn.Module]:
    """``timm.create_model``; its arguments become ``model_args`` of the saved config.json."""

    def build() -> nn.Module:
        import timm

        module = timm.create_model(name, **kwargs)
        module.proof_args = {key: value for key, value in kwargs.items() if not callable(value)}  # pyright: ignore
        return module

    return build


def made(target: str, kwargs: dict[str, Any]) -> Callable[[], nn.Module]:
    """A class of timm.models, where create_model does not let the sizes be changed; it has no config."""

    def build() -> nn.Module:
        home, _, name = target.partition(":")
        return getattr(importlib.import_module(f"timm.models.{home}"), name)(**kwargs)

    return build


def see(size: int, channels: int = 3) -> Callable[[nn.Module], object]:
    return lambda module: module(image(size, channels=channels))


def stepwise(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Evaluate attention step by step, not in one fused call."""

    def unfused() -> nn.Module:
        module = build()
        for part in module.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False  # pyright: ignore[reportAttributeAccessIssue]
        return module

    return unfused


def tm(
    id: str,
    name: str,
    tensors: str | tuple[str, ...],
    kwargs: dict[str, Any],
    size: int = 8,
    heads: int = H,
    head_dim: int = D,
    *,
    unfused: bool = False,
    **rest: Any,
) -> Case:
    names = (tensors,) if isinstance(tensors, str) else tensors
    bare = ":" in name
    build = made(name, kwargs) if bare else create(name, kwargs)
    rest.setdefault("heads_flag", bare)
    return Case(
        id,
        "timm",
        stepwise(build) if unfused else build,
        see(size),
        names,
        heads,
        head_dim,
        save=None if bare else save_timm,
        **rest,
    )


def part(
    id: str,
    build: Callable[[], nn.Module],
    tensors: str | tuple[str, ...],
    shape: tuple[int, ...],
    heads: int = H,
    head_dim: int = D,
    *,
    prefix: str = "",
    **rest: Any,
) -> Case:
    """One block of timm.layers on its own, held where a model would hold it."""
    names = (tensors,) if isinstance(tensors, str) else tensors
    path = prefix.rstrip(".").split(".") if prefix else []

    def nested() -> nn.Module:
        module = build()
        for name in reversed(path):
            outer = nn.Module()
            outer.add_module(name, module)
            module = outer
        return module

    def forward(module: nn.Module) -> object:
        return module.get_submodule(prefix.rstrip("."))(torch.randn(*shape, dtype=torch.float64))

    tensors = tuple(prefix + name for name in names)
    return Case(id, "timm", nested, forward, tensors, heads, head_dim, heads_flag=rest.pop("heads_flag", True), **rest)
