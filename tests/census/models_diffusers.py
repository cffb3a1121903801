"""diffusers: every model class, smaller in every size; each of its attentions is run on its own."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tests.census.model import CALLED_ATTENTION, Model
from tests.census.shrinking import smaller

LARGEST = 120_000_000
TRIES = ((8, 1), (4, 1), (2, 1), (1, 1), (1, 0))


def _build(name: str) -> nn.Module:
    """The smallest that builds, from the defaults of its class.

    Raises:
        RuntimeError: none did.
    """
    cls = getattr(importlib.import_module("diffusers"), name)
    given = inspect.signature(cls.__init__).parameters
    whole = {key: one.default for key, one in given.items() if one.default is not inspect.Parameter.empty}
    trouble = ""
    for factor, layers in TRIES:
        config = smaller(json.loads(json.dumps(whole, default=list)), factor, layers, False) if layers else whole
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in cls(**config).parameters())
            if size > LARGEST:
                raise RuntimeError(f"{size} parameters")
            return cls(**config)
        except Exception as error:
            trouble = f"{type(error).__name__}: {error}"
    raise RuntimeError(trouble)


def _files(module: nn.Module) -> dict[str, Any]:
    return {"config.json": json.loads(module.to_json_string())}  # pyright: ignore


def _run(module: nn.Module) -> object:
    """Each attention on tokens or on an image, alone and with other tokens, until it computes something."""
    for part in module.modules():
        if CALLED_ATTENTION.search(type(part).__name__):
            for given in _tries(part):
                try:
                    part(*given)
                except Exception:
                    continue
                break
    return None


def _tries(part: nn.Module) -> Iterator[tuple[torch.Tensor, ...]]:
    layers = [one for one in part.modules() if isinstance(one, (nn.Linear, nn.Conv2d))]
    if not layers:
        return
    widths = [one.in_features if isinstance(one, nn.Linear) else one.in_channels for one in layers]
    own, other = widths[0], next((width for width in widths if width != widths[0]), widths[0])
    yield (torch.randn(1, 16, own),)
    for width in dict.fromkeys((other, own)):
        yield (torch.randn(1, 16, own), torch.randn(1, 5, width))
    yield (torch.randn(1, own, 4, 4),)
    yield (torch.randn(1, own, 2, 4, 4),)


def models() -> Iterator[Model]:
    diffusers = importlib.import_module("diffusers")
    structure: Any = importlib.import_module("diffusers")._import_structure  # pyright: ignore
    for name in sorted(structure.get("models", ())):
        cls = getattr(diffusers, name, None)
        if inspect.isclass(cls) and issubclass(cls, nn.Module):
            yield Model("diffusers", name, lambda name=name: _build(name), _run, _files)
