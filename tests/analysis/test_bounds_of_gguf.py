"""The bound on logits of a GGUF file is that of the model that it was converted from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

CONVERTED = Path(__file__).parents[1] / "diff" / "llama_cpp"
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm"}  # fmt: skip


def bounds(run: Callable[..., Any], path: Path) -> tuple[list[float], str]:
    (layer,) = run("analyze", path, "--no-evidence", "-f", "json").json()["layers"]
    return [head["logit_bound"] for head in layer["heads"]], layer["logit_bound_from"]


@pytest.mark.parametrize("kind", ["qwen2", "gemma"])
def test_the_gain_before_the_projections_counts(kind: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    """Gemma's converter adds the one that Gemma adds to its gains (conversion/gemma.py)."""
    torch.manual_seed(0)
    rows = {"q": (32, 32), "k": (16, 32), "v": (16, 32), "o": (32, 32)}
    state = {f"model.layers.0.self_attn.{part}_proj.weight": torch.randn(shape) for part, shape in rows.items()}
    state["model.layers.0.input_layernorm.weight"] = torch.rand(32) * 3
    (tmp_path / "hf").mkdir()
    save_file(state, tmp_path / "hf" / "model.safetensors")
    config = {"model_type": kind, "num_attention_heads": 4, "num_key_value_heads": 2}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", kind)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    for name, values in state.items():
        module = name.removeprefix("model.layers.0.").removesuffix(".weight")
        more = kind == "gemma" and module == "input_layernorm"
        writer.add_tensor(f"blk.0.{NAMES[module]}.weight", np.ascontiguousarray((values + more).numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected, _ = bounds(run, tmp_path / "hf")
    found, why = bounds(run, tmp_path / "m.gguf")
    assert found == pytest.approx(expected, rel=1e-6)
    assert "blk.0.attn_norm.weight" in why


@pytest.mark.parametrize("name", ["qwen3", "olmo2", "granite"])
def test_norms_of_heads_and_the_scale_of_the_metadata_count(name: str, run: Callable[..., Any]) -> None:
    """Files that llama.cpp's own converter wrote."""
    assert bounds(run, CONVERTED / f"{name}.gguf")[0] == pytest.approx(bounds(run, CONVERTED / name)[0], rel=1e-6)


def test_t5_does_not_scale(tmp_path: Path, run: Callable[..., Any]) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "t5")
    writer.add_head_count(4)
    for part in ("q", "k", "v", "o"):
        writer.add_tensor(f"enc.blk.0.attn_{part}.weight", np.eye(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found, why = bounds(run, tmp_path / "m.gguf")
    assert found == pytest.approx([32.0] * 4)
    assert "not scaled (t5)" in why
