"""What is said of many layers is said once where it is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def bert(layers: int) -> dict[str, torch.Tensor]:
    """The output projection lies beside the module, so that its name varies too."""
    state: dict[str, torch.Tensor] = {}
    for layer in range(layers):
        place = f"encoder.layer.{layer}.attention."
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            state[f"{place}{name}.weight"] = torch.randn(16, 16)
            state[f"{place}{name}.bias"] = torch.randn(16)
    return state


def test_alike_layers_share_what_is_said(tmp_path: Path, run: Any) -> None:
    state = bert(12)
    for part in ("query", "key", "value"):
        state.pop(f"encoder.layer.7.attention.self.{part}.bias")
    torch.save(state, tmp_path / "model.pt")
    lines = run("explain", tmp_path / "model.pt", "--heads", "4", "--no-evidence").out.splitlines()
    assert [line for line in lines if line.startswith("encoder.")] == [
        "encoder.layer.0.attention.self  and so are encoder.layer.*.attention.self (1 to 6, 8 to 11)",
        "encoder.layer.7.attention.self",
    ]
    one = run("explain", tmp_path / "model.pt", "--heads", "4", "--no-evidence", "--layer", "*.3.*").out
    assert "state['encoder.layer.3.attention.self.query.weight']" in one
    every = run("explain", tmp_path / "model.pt", "--heads", "4", "--no-evidence", "-f", "json").json()
    assert len(every["layers"]) == 12


def test_a_stack_with_norms_of_its_own_is_one_table(tmp_path: Path, run: Any) -> None:
    """The bound on the logits names each layer's norm."""
    state: dict[str, torch.Tensor] = {}
    for layer in range(3):
        for name in "qkvo":
            state[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = torch.randn(16, 16)
        state[f"model.layers.{layer}.input_layernorm.weight"] = torch.ones(16)
    torch.save(state, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 4, "hidden_size": 16}')
    lines = run("analyze", tmp_path / "model.pt").out.splitlines()
    assert [line for line in lines if line.startswith("model.")] == ["model.layers.*.self_attn  3 layers"]
    assert sum("model.layers.*.input_layernorm.weight" in line for line in lines) == 1
