"""What pairs.py captured: real libraries compute the same from what was written for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import qkvinspect

FOUND = json.loads((Path(__file__).parent / "pairs.json").read_text())


def test_there_are_enough() -> None:
    assert len(FOUND) >= 12


@pytest.mark.parametrize("pair", FOUND)
def test_outputs_are_equal(pair: str) -> None:
    assert FOUND[pair]["difference"] <= 2e-5
    assert FOUND[pair]["from shards"] <= 2e-5
    assert FOUND[pair]["another model"] > 0.01


def test_torch_takes_what_was_packed_for_it(tmp_path: Path, run) -> None:
    """A BERT-like encoder, its parts under transformers' names, as nn.TransformerEncoder."""
    layer = torch.nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    parts: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        new = name.replace("layers.", "encoder.layer.")
        if "in_proj" in name:
            for word, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                kind = name.rpartition("_")[2]
                parts[new.replace("self_attn.in_proj_", f"attention.self.{word}.").removesuffix(kind) + kind] = part
        else:
            parts[new.replace("self_attn.out_proj", "attention.output.dense")] = tensor
    torch.save({name: tensor.clone() for name, tensor in parts.items()}, tmp_path / "bert.pt")
    rename = ["--rename", r"encoder\.layer\.=layers.", "--rename", r"attention\.self\.=self_attn."]
    result = run("convert", tmp_path / "bert.pt", "--to", "torch-mha", "-o", tmp_path / "torch.pt", *rename, "--verify")
    assert result.code == 0
    fresh = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    fresh.load_state_dict(torch.load(tmp_path / "torch.pt", weights_only=True), strict=True)
    inputs = torch.randn(2, 7, 16)
    assert torch.equal(fresh(inputs), model(inputs))


def test_views_in_memory() -> None:
    module = torch.nn.MultiheadAttention(16, 4)
    parts = qkvinspect.split(module.state_dict())
    with torch.no_grad():
        parts["v_proj.weight"].fill_(3)
    assert bool((module.in_proj_weight[32:] == 3).all())
    packed = qkvinspect.pack(parts, "megatron-core", heads=4)
    expected = module.in_proj_weight.view(3, 4, 4, 16).transpose(0, 1).reshape(48, 16)
    assert torch.equal(packed["linear_qkv.weight"], expected)
    again = qkvinspect.split(packed, heads="4", layout="megatron-core")
    assert all(torch.equal(again[f"{part}_proj.weight"], parts[f"{part}_proj.weight"]) for part in "qkv")
