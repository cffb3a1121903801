"""Adapters of mlx-lm and torchtune, those of other kinds than LoRA, and modules that no layout has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import qkvinspect
from qkvinspect.weights.encodings import ENCODINGS
from qkvinspect.weights.named_formats import FACTORS
from tests.batches import batched

LAYER = "model.layers.0.self_attn"


def lora(names: list[str], *, turned: bool = False, down: str, up: str) -> dict[str, torch.Tensor]:
    """Factors of rank 4 for weights of 32 rows and 64 columns."""
    made: dict[str, torch.Tensor] = {}
    for name in names:
        a, b = torch.randn(4, 64), torch.randn(32, 4)
        made |= {f"{name}.{down}": a.T.contiguous() if turned else a, f"{name}.{up}": b.T.contiguous() if turned else b}
    return made


def test_mlx_has_its_factors_turned_and_a_scale_of_its_own(tmp_path: Path) -> None:
    """``y + scale * ((x @ lora_a) @ lora_b)`` (mlx-lm, tuner/lora.py, LoRALinear)."""
    made = lora([f"{LAYER}.{part}_proj" for part in "qkv"], turned=True, down="lora_a", up="lora_b")
    save_file(made, tmp_path / "adapters.safetensors")
    said = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.0}, "num_layers": 16}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    with qkvinspect.open(tmp_path / "adapters.safetensors", heads="4") as checkpoint:
        found = checkpoint.attentions[LAYER]
        for part in "qkv":
            a, b = (made[f"{LAYER}.{part}_proj.{leaf}"].double() for leaf in ("lora_a", "lora_b"))
            x = torch.eye(64, dtype=torch.float64)
            expected = (20 * ((x @ a) @ b)).T.numpy()
            np.testing.assert_allclose(getattr(found, part).numpy(), expected, rtol=1e-6)


def test_mlx_without_its_config_has_no_scale(tmp_path: Path, run) -> None:
    made = lora([f"{LAYER}.{part}_proj" for part in "qkv"], turned=True, down="lora_a", up="lora_b")
    save_file(made, tmp_path / "adapters.safetensors")
    found = run("show", tmp_path / "adapters.safetensors", "--heads", "4")
    assert "[32, 64] LoRA of rank 4, its alpha is not known" in found.out
    assert "alpha of 3 modules is unknown" in found.out


def test_mlx_dora_is_not_taken_for_lora(tmp_path: Path, run) -> None:
    made = lora([f"{LAYER}.{part}_proj" for part in "qkv"], turned=True, down="lora_a", up="lora_b")
    save_file({**made, f"{LAYER}.q_proj.m": torch.ones(32)}, tmp_path / "adapters.safetensors")
    found = run("check", tmp_path / "adapters.safetensors", "--heads", "4")
    assert found.code == 1
    assert f"{LAYER}.q_proj.m is beside its factors" in found.out


def test_torchtune_is_as_peft(tmp_path: Path) -> None:
    made = lora([f"layers.0.attn.{part}_proj" for part in "qkv"], down="lora_a.weight", up="lora_b.weight")
    save_file(made, tmp_path / "adapter.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "peft_type": "LORA"}))
    with qkvinspect.open(tmp_path / "adapter.safetensors", heads="4") as checkpoint:
        a, b = (made[f"layers.0.attn.k_proj.{leaf}"].double() for leaf in ("lora_a.weight", "lora_b.weight"))
        np.testing.assert_allclose(checkpoint.attentions["layers.0.attn"].k.numpy(), (2 * b @ a).numpy(), rtol=1e-6)


def test_each_leaf_of_other_kinds_is_looked_for() -> None:
    assert any(markers >= frozenset(FACTORS) for _, markers in ENCODINGS)


@batched("leaf", sorted(FACTORS))
@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", "unet.down_blocks.1.attentions.0."),
        ("base_model.model.encoder.block.0.layer.0.SelfAttention.v", "SelfAttention.v.weight"),
    ],
)
def test_other_kinds_are_named(leaf: str, module: str, layer: str, tmp_path: Path, run) -> None:
    save_file({f"{module}.{leaf}": torch.ones(16, 8)}, tmp_path / "adapter.safetensors")
    found = run("check", tmp_path / "adapter.safetensors")
    assert found.code == 1
    assert FACTORS[leaf] in found.out
    assert layer in found.out


def test_q_k_and_v_of_an_adapter_are_one_module(tmp_path: Path, run) -> None:
    """Also where rows with a Q or a V beside something else have one of the names: Wan's are q, k, v and o."""
    names = [f"diffusion_model.blocks.{block}.self_attn.{part}" for block in range(2) for part in "qkvo"]
    save_file(lora(names, down="lora_A.weight", up="lora_B.weight"), tmp_path / "adapter.safetensors")
    found = run("show", tmp_path / "adapter.safetensors", "--heads", "4", "-f", "json").json()["attentions"]
    assert [{*one["tensors"]} for one in found] == [{"q", "k", "v"}] * 2


def test_some_of_them_are_still_found(tmp_path: Path, run) -> None:
    names = [f"base_model.model.{LAYER}.{part}_proj" for part in "qv"]
    save_file(lora(names, down="lora_A.weight", up="lora_B.weight"), tmp_path / "adapter.safetensors")
    (one,) = run("show", tmp_path / "adapter.safetensors", "--heads", "4", "-f", "json").json()["attentions"]
    assert one["layout"] == "qkv-proj"
    assert {*one["tensors"]} == {"q", "v"}
