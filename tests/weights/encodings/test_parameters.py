"""How many numbers a quantised model has, and scales of shapes that no loader has."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError
from qkvinspect.weights.weight import Weight
from tests.diff.test_heads import WAYS, original, quantise


@pytest.mark.parametrize("way", WAYS)
def test_the_parameters_are_those_of_the_original(way: str, tmp_path: Path, run) -> None:
    state = original(1)
    norm = {"l.0.norm.weight": torch.ones(128)}
    save_file(quantise(state, way) | norm, tmp_path / "codes.safetensors")
    found = run("show", tmp_path / "codes.safetensors", "--heads", "8/4", "-f", "json", "--no-evidence").json()
    assert found["checkpoint"]["num_parameters"] == sum(prod(weight.shape) for weight in state.values()) + 128


@pytest.mark.parametrize("name", ["self_attn.qkv_proj", "attn.qkv"])
def test_scales_in_blocks_smaller_than_the_config_has_are_no_shares_of_ranks(name: str, tmp_path: Path, run) -> None:
    """Eight rows of scales where four blocks of 80 rows are: ranks would have half a block each."""
    codes, scales = torch.randn(320, 192).to(torch.float8_e4m3fn), torch.rand(8, 3)
    state = {f"layers.0.{name}.weight": codes, f"layers.0.{name}.weight_scale_inv": scales}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"model_type": "phi3", "hidden_size": 192, "num_attention_heads": 6, "num_key_value_heads": 2,'
        ' "quantization_config": {"quant_method": "fp8", "weight_block_size": [80, 80]}}'
    )
    found = run("check", tmp_path)
    assert found.code == 1
    assert "has one for each 80 x 80" in found.out


@pytest.mark.parametrize("part", "kv")
def test_parts_that_take_other_inputs_are_told(part: str, tmp_path: Path, run) -> None:
    """One column of K or V is missing: other checks judge the layer without an error of their own."""
    shapes = {"q": (192, 192), "k": (64, 192), "v": (64, 192), "o": (192, 192)}
    shapes[part] = (64, 191)
    state = {
        f"model.layers.{layer}.self_attn.{name}_proj.weight": torch.randn(shape)
        for layer in range(2)
        for name, shape in shapes.items()
    }
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"model_type": "mistral", "hidden_size": 192, "num_attention_heads": 6, "num_key_value_heads": 2}'
    )
    found = run("check", tmp_path, "--no-evidence")
    assert (found.code, found.err) == (1, "")
    assert f"{part.upper()} takes 191 inputs" in found.out
    shown = run("show", tmp_path, "--no-evidence")
    assert f"{part.upper()} takes 191 inputs" in " ".join(shown.out.split()) + shown.err


def test_what_has_no_values_says_why() -> None:
    lost = Weight("q.weight", (4, 4), DTYPES["float32"], None, why="its scale is missing")
    with pytest.raises(LayoutError, match="no values: its scale is missing"):
        lost.as_matrix("out_in")
