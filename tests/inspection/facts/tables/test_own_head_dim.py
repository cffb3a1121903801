"""A width of heads that a config has though its class's default has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_moe", "starcoder2", "phi", "qwen3"])
def test_head_dim_is_read_where_the_class_reads_it(kind: str, tmp_path: Path, run) -> None:
    """transformers has 4 heads of 12 in layers of 52: its attention asks getattr(config, "head_dim", ...)."""
    state = {
        f"model.layers.0.self_attn.{name}_proj.weight": torch.randn(rows, 52)
        for name, rows in (("q", 48), ("k", 12), ("v", 12))
    }
    state["model.layers.0.self_attn.o_proj.weight"] = torch.randn(52, 48)
    save_file(state, tmp_path / "model.safetensors")
    said = {"model_type": kind, "hidden_size": 52, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 12}
    (tmp_path / "config.json").write_text(json.dumps(said))
    found = run("show", tmp_path, "-f", "json", "--no-evidence").json()
    (layer,) = found["attentions"]
    assert (layer["num_heads"], layer["num_kv_heads"], layer["head_dim"]) == (4, 1, 12)
    assert not [one for one in found["findings"] if "heads" in one["code"]]
