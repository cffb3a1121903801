"""open_clip: one model for each kind of towers, as deep as two layers."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from tests.census.model import Model

CHOSEN = (
    "ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16-plus", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "ViT-L-14-CLIPA",
    "ViTamin-S", "RN50", "RN50x4", "convnext_base", "coca_base", "coca_ViT-B-32", "EVA02-B-16", "MobileCLIP-S1",
    "MobileCLIP2-S0", "PE-Core-B-16", "ViT-H-14-378-quickgelu", "vit_medium_patch16_gap_256",
    "swin_base_patch4_window7_224",
)  # fmt: skip


def _shallow(config: dict[str, Any]) -> dict[str, Any]:
    small = copy.deepcopy(config)
    for tower in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        if isinstance(small.get(tower, {}).get("layers"), int):
            small[tower]["layers"] = 2
    return small


def _build(name: str) -> nn.Module:
    factory = importlib.import_module("open_clip.factory")
    config = _shallow(factory.get_model_config(name))
    with TemporaryDirectory() as folder:
        Path(folder, f"census-{name}.json").write_text(json.dumps(config))
        importlib.import_module("open_clip").add_model_config(folder)
    module = factory.create_model(f"census-{name}", pretrained=None, load_weights=False)
    module.census_config = config
    return module


def _run(module: nn.Module) -> object:
    size = module.visual.image_size  # pyright: ignore
    size = size if isinstance(size, tuple) else (size, size)
    length = getattr(module, "context_length", 77) or 77
    return module(torch.randn(2, 3, *size), torch.randint(1, 300, (2, length)))


def _files(module: nn.Module) -> dict[str, Any]:
    return {"open_clip_config.json": {"model_cfg": module.census_config, "preprocess_cfg": {}}}


def models() -> Iterator[Model]:
    known = importlib.import_module("open_clip").list_models()
    for name in CHOSEN:
        if name in known:
            yield Model("open_clip", name, lambda name=name: _build(name), _run, _files)
