"""A GGUF file that names no number of heads: its rows are ordered by those of the other side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

HEADS = {"q": 6, "k": 2}


def in_turn(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp, conversion/llama.py, LlamaModel.permute."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


@pytest.mark.parametrize("first", ["hf", "gguf"])
def test_heads_of_the_other_side_order_the_rows(tmp_path: Path, run: Any, first: str) -> None:
    values = np.random.default_rng(0)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    state = {}
    for part, rows in (("q", 96), ("k", 32), ("v", 32), ("o", 96)):
        weight = values.normal(size=(rows, 96)).astype(np.float32)
        state[f"model.layers.0.self_attn.{part}_proj.weight"] = torch.from_numpy(weight)
        stored = in_turn(weight, HEADS[part]) if part in HEADS else weight
        writer.add_tensor(f"blk.0.attn_{'output' if part == 'o' else part}.weight", np.ascontiguousarray(stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "hf").mkdir()
    save_file(state, tmp_path / "hf" / "model.safetensors")
    config = {"model_type": "llama", "num_attention_heads": 6, "num_key_value_heads": 2}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    sides = [tmp_path / "hf", tmp_path / "model.gguf"]
    result = run("diff", *(sides if first == "hf" else sides[::-1]))
    assert result.code == 0, result.err
    assert "same: 1 layer (1 identical)" in result.out
