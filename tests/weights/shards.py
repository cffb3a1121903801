"""A checkpoint in several files, as transformers writes one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file


def save_shards(folder: Path, shards: Sequence[Mapping[str, torch.Tensor]]) -> None:
    """Write each as a file of its own, and the index that names them."""
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(dict(shard), folder / name)
        where |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
