"""Checkpoints to serve: small real ones by torch, and large ones that are mostly holes."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WIDTH = 512
HOLE = 1 << 28
"""Values of an MLP's weight: half a gigabyte that nobody may fetch."""

CONFIG = {"num_attention_heads": 8, "num_key_value_heads": 8, "hidden_size": WIDTH}


def shapes(layers: range) -> dict[str, tuple[int, ...]]:
    """The names of a Llama: attention between what is not."""
    found: dict[str, tuple[int, ...]] = {}
    for number in layers:
        prefix = f"model.layers.{number}"
        found[f"{prefix}.mlp.down_proj.weight"] = (WIDTH, HOLE // WIDTH)
        found |= {f"{prefix}.self_attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "kqvo"}
        found[f"{prefix}.input_layernorm.weight"] = (WIDTH,)
    return found


def sparse_safetensors(path: Path, tensors: dict[str, tuple[int, ...]]) -> int:
    """Zeros in bfloat16, as holes; how many bytes the header has."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return 8 + len(text)


def sparse_zip(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """The same by torch.save, without checksums: it would have to read the holes for them."""
    from torch.serialization import set_crc32_options, skip_data

    set_crc32_options(False)
    try:
        with skip_data():  # the memory of the tensors is never touched either
            torch.save({name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in tensors.items()}, path)
    finally:
        set_crc32_options(True)


def attention_bytes(tensors: dict[str, tuple[int, ...]]) -> int:
    return sum(2 * torch.Size(shape).numel() for name, shape in tensors.items() if ".self_attn." in name)


def small(seed: int = 0, width: int = 128) -> dict[str, torch.Tensor]:
    """Two layers of nn.TransformerEncoder; of this width, 1 MB."""
    torch.manual_seed(seed)
    layer = torch.nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True)
    return torch.nn.TransformerEncoder(layer, 2).state_dict()


def tiny(seed: int = 0) -> dict[str, torch.Tensor]:
    """Layers that are weighed in no time, behind an embedding that the first request does not reach over."""
    return {"embedding.weight": torch.rand(4096, 32), **small(seed, 32)}
