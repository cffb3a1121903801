"""timm: the smallest model of each kind of attention in each module of timm.models."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import torch
from torch import nn

from tests.census.model import CALLED_ATTENTION, Model

VERSION_OF = "timm"
LARGEST = 90_000_000


def _sign(module: nn.Module) -> tuple[str, ...]:
    """Names of classes and of tensors of what is called attention, without numbers."""
    found: set[str] = set()
    for part in module.modules():
        if CALLED_ATTENTION.search(type(part).__name__):
            names = sorted({re.sub(r"\d+", "*", name) for name, _ in part.named_parameters()})
            found.add(f"{type(part).__name__}:{names}")
    return tuple(sorted(found))


def chosen() -> dict[str, int]:
    """The smallest model for each module and each kind of attention."""
    import timm

    best: dict[Any, tuple[int, str]] = {}
    for name in timm.list_models():
        home = timm.model_entrypoint(name).__module__.rpartition(".")[2]
        try:
            with torch.device("meta"):
                module = timm.create_model(name)
        except Exception as error:
            print(f"timm {name}: {type(error).__name__}: {error}"[:150], file=sys.stderr)
            continue
        size = sum(parameter.numel() for parameter in module.parameters())
        key = (home, _sign(module))
        if key not in best or size < best[key][0]:
            best[key] = (size, name)
    return {name: size for size, name in sorted(best.values(), key=lambda item: item[1]) if size <= LARGEST}


def _cached() -> dict[str, int]:
    """The choice takes four minutes: kept for the next run of the same version, outside the tree."""
    import timm

    path = Path(gettempdir(), f"census-timm-{timm.__version__}.json")
    if not path.exists():
        path.write_text(json.dumps(chosen()))
    return json.loads(path.read_text())


def _files(module: nn.Module) -> Mapping[str, Any]:
    hub = importlib.import_module("timm.models._hub")
    with TemporaryDirectory() as folder:
        hub.save_config_for_hf(module, str(Path(folder, "config.json")))
        return {"config.json": json.loads(Path(folder, "config.json").read_text())}


def _run(module: nn.Module) -> object:
    size = module.default_cfg.get("input_size", (3, 224, 224))  # pyright: ignore
    return module(torch.randn(2, *size))


def models() -> Iterator[Model]:
    import timm

    for name in _cached():
        yield Model("timm", name, lambda name=name: timm.create_model(name), _run, _files)
