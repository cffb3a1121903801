"""A block on its own, held where the whole model holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from case import Case
from torch import nn


def nest(inner: nn.Module, prefix: str) -> nn.Module:
    """``inner`` under the dotted name ``prefix``."""
    for name in reversed(prefix.rstrip(".").split(".")):
        outer = nn.Module()
        outer.add_module(name, inner)
        inner = outer
    return inner


def block(
    id: str,
    library: str,
    build: Callable[[], nn.Module],
    tensors: str | tuple[str, ...],
    prefix: str,
    heads: int,
    head_dim: int,
    *,
    shape: tuple[int, ...] = (),
    run: Callable[[nn.Module], object] | None = None,
    **rest: Any,
) -> Case:
    """A case of one block; ``run`` gets the block itself, by default one random tensor of ``shape``."""
    names = (tensors,) if isinstance(tensors, str) else tensors
    path = prefix.rstrip(".")

    def forward(module: nn.Module) -> object:
        inner = module.get_submodule(path)
        return run(inner) if run else inner(torch.randn(*shape, dtype=next(inner.parameters()).dtype))

    late = tuple(f"{path}.{name}" for name in rest.pop("late_biases", ()))
    rest.setdefault("heads_flag", "config" not in rest)
    return Case(
        id,
        library,
        lambda: nest(build(), path),
        forward,
        tuple(f"{path}.{name}" for name in names),
        heads,
        head_dim,
        late_biases=late,
        **rest,
    )
