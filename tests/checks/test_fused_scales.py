"""NVFP4 scales of the whole, which a loader that fuses Q, K and V has only one of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file


def nvfp4(scales: tuple[float, ...], leaf: str = "weight_global_scale") -> dict[str, torch.Tensor]:
    """Q, K, V and output of a layer, as compressed-tensors stores them, or ModelOpt where ``leaf`` is its name."""
    codes = "weight_packed" if leaf == "weight_global_scale" else "weight"
    state: dict[str, torch.Tensor] = {}
    for part, scale in zip("qkvo", scales, strict=True):
        name = f"l.0.self_attn.{part}_proj"
        state |= {
            f"{name}.{codes}": torch.randint(0, 256, (32, 16), dtype=torch.uint8),
            f"{name}.weight_scale": (torch.rand(32, 2) + 0.5).to(torch.float8_e4m3fn),
            f"{name}.{leaf}": torch.tensor([scale]),
        }
    return state


@pytest.mark.parametrize(("scales", "said"), [((2.0, 2.0, 2.0), False), ((2.0, 2.5, 2.0), True)])
def test_scales_that_differ(scales: tuple[float, ...], said: bool, tmp_path: Path, run) -> None:
    state = nvfp4((*scales, 9.0))
    save_file(state, tmp_path / "m.safetensors")
    found = run("check", tmp_path / "m.safetensors", "--heads", "4", "--select", "fused-scales-differ")
    assert ("fused-scales-differ" in found.out) == said
    assert ("q_proj.weight 2, k_proj.weight 2.5, v_proj.weight 2;" in found.out) == said
    shown = run("show", tmp_path / "m.safetensors", "--heads", "4")
    assert "[32, 32] NVFP4, 4 bit floats, groups of 16, divided by a scale for all (4.53 bits a weight)" in shown.out


@pytest.mark.parametrize(("leaf", "times"), [("weight_global_scale", "0.5"), ("weight_scale_2", "2")])
def test_what_the_largest_scale_does_to_the_others(leaf: str, times: str, tmp_path: Path, run) -> None:
    """ModelOpt multiplies by it, compressed-tensors divides: what vLLM would then compute with."""
    state = nvfp4((2.0, 4.0, 4.0, 9.0), leaf)
    save_file(state, tmp_path / "m.safetensors")
    found = run("check", tmp_path / "m.safetensors", "--heads", "4", "--select", "fused-scales-differ")
    assert f"keeps the largest: values of q_proj.weight become {times} times what they are" in found.out
