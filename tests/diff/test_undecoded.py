"""Layers that a side holds and nobody decodes, and sums with an adapter, are called what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import qkvinspect

MODELS = Path(__file__).parent.parent / "weights" / "encodings" / "models"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """NF4 by bitsandbytes, one layer without its scales."""
    state = load_file(MODELS / "bnb_nf4.safetensors")
    del state["blocks.0.attn.qkv.weight.absmax"]
    with safe_open(MODELS / "bnb_nf4.safetensors", "pt") as file:
        save_file(state, tmp_path / "broken.safetensors", file.metadata())
    return tmp_path / "broken.safetensors"


def test_a_layer_that_cannot_be_decoded_is_not_removed(broken: Path, run) -> None:
    said = run("diff", MODELS / "original.safetensors", broken, "--heads", "8").out
    (line,) = [line for line in said.split("\n") if line.split()[:1] == ["blocks.0.attn"] and "decoded" in line]
    assert "in B: qkv.weight has no values: qkv.weight.absmax: is missing" in line
    assert "removed" not in said
    assert "1 rounding, 1 not decoded" in said


def test_the_same_the_other_way_round(broken: Path, run) -> None:
    said = run("diff", broken, MODELS / "original.safetensors", "--heads", "8").out
    assert "in A: qkv.weight has no values" in said
    assert "1 rounding, 1 not decoded" in said


def test_codes_that_are_only_named(run) -> None:
    said = run("diff", MODELS / "original.safetensors", MODELS / "hqq_4bit.safetensors", "--heads", "8").out
    assert "2 not decoded" in said
    assert "HQQ's codes" in said


def test_the_api_says_why_there_is_no_such_layer(broken: Path) -> None:
    found = qkvinspect.open(broken, heads=8)
    with pytest.raises(KeyError, match=r"blocks\.0\.attn.*absmax: is missing"):
        found.layer("blocks.0.attn")
    with pytest.raises(KeyError, match=r"absmax: is missing"):
        qkvinspect.inspect(broken, heads="8").layer("blocks.0.attn")


def test_no_row_is_suggested_for_what_an_error_explains(tmp_path: Path, run) -> None:
    state = {f"l.0.self_attn.{part}_proj.weight": torch.randn(64, 64) for part in "kvo"}
    state |= {
        "l.0.self_attn.q_proj.weight": torch.zeros(2048, 1, dtype=torch.uint8),
        "l.0.self_attn.q_proj.weight.quant_map": torch.zeros(16),
    }
    save_file(state, tmp_path / "m.safetensors")
    said = run("show", tmp_path / "m.safetensors", "--heads", "4")
    assert "has no values" in said.out + said.err
    assert "[[layout]]" not in said.out


@pytest.mark.parametrize("leaf", ["oft_R.weight", "boft_R", "vera_lambda_b", "hada_w1_a"])
def test_no_row_is_suggested_for_other_adapters(leaf: str, tmp_path: Path, run) -> None:
    state = {f"base_model.model.layers.0.self_attn.{part}_proj.{leaf}": torch.randn(18, 6) for part in "qv"}
    save_file(state, tmp_path / "adapter_model.safetensors")
    said = run("show", tmp_path / "adapter_model.safetensors")
    assert "[[layout]]" not in said.out


def test_a_sum_with_an_adapter_is_not_called_quantised(tmp_path: Path, run) -> None:
    base = {f"model.layers.0.self_attn.{part}_proj.weight": torch.randn(32, 32) for part in "qkvo"}
    factors = {
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight": torch.randn(shape)
        for side, shape in (("A", (4, 32)), ("B", (32, 4)))
    }
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}'
    )
    save_file(base, tmp_path / "base.safetensors")
    save_file(factors, tmp_path / "adapter_model.safetensors")
    paths = (tmp_path / "base.safetensors", tmp_path / "adapter_model.safetensors")
    said = run("diff", *paths, "--base", tmp_path / "base.safetensors", "--heads", "4")
    assert "adapted (float32 with LoRA of rank 4 added" in said.out + said.err
    assert "changed in 1 of 1 layers: model.layers.0.self_attn" in said.out + said.err
    assert "quantised" not in said.out + said.err
