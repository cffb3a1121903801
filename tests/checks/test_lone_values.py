"""Large values are looked for in many small tensors at once: each is found where it is, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.checks import run
from qkvinspect.checks.damage import lone_values
from qkvinspect.checks.damage.lone_values import of_biases, with_large_tails
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect

LAYERS, WIDTH = 12, 24
"""A weight of 24 x 24 values ends 256 or 128 bytes behind its last block of 1 kB."""


def saved(folder: Path, lone: dict[str, float]) -> Path:
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        dtype = torch.float16 if layer % 4 == 3 else torch.float32
        for part in "qkvo":
            at = f"layers.{layer}.self_attn.{part}_proj"
            state[f"{at}.weight"] = (torch.randn(WIDTH, WIDTH) * 0.1).to(dtype)
            state[f"{at}.bias"] = (torch.randn(WIDTH) * 0.1).to(dtype)
    for name, value in lone.items():
        state[name].view(-1)[-1] = value
    save_file(state, folder / "m.safetensors")
    return folder / "m.safetensors"


def name(layer: int, part: str, leaf: str) -> str:
    return f"layers.{layer}.self_attn.{part}_proj.{leaf}"


LONE = {
    name(2, "k", "weight"): 1e30,
    name(3, "q", "weight"): 3e4,
    name(5, "v", "bias"): -1e30,
    name(7, "o", "bias"): float("nan"),
}


@pytest.mark.parametrize("piece", [256, 4 << 20])
def test_large_values_of_some_of_many(piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lone_values, "_PIECE", piece)
    with open_checkpoint(saved(tmp_path, LONE)) as checkpoint:
        report = inspect(checkpoint, Options(heads=("4",)))
        weights = [part.weight.stored[0] for one in report.attentions for part in (*one.parts, one.output) if part]
        assert with_large_tails(weights) == {one for one in LONE if one.endswith("weight")}
        biases = {info.name: value for _, info, value in of_biases(report.attentions)}
    assert biases.keys() == {one for one in LONE if one.endswith("bias")}
    assert {value[0] for value in biases.values()} == {WIDTH - 1}


def test_the_check_tells_each_and_no_other(tmp_path: Path) -> None:
    with open_checkpoint(saved(tmp_path, LONE)) as checkpoint:
        found = run(inspect(checkpoint, Options(heads=("4",))))
    told = [(one.layer, one.message.partition(" hold ")[0]) for one in found if one.code == "damaged-block"]
    assert sorted(layer or "" for layer, _ in told) == [f"layers.{layer}.self_attn" for layer in (2, 3, 5, 7)]
