"""Weights as torch's initialisers leave them are told from all others by a few of their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection.untouched import untouched
from qkvinspect.weights.weight import plain

MADE: dict[str, Callable[[int, int], Tensor]] = {
    "nn.MultiheadAttention": lambda rows, cols: nn.MultiheadAttention(cols, 1).in_proj_weight.detach(),
    "nn.MultiheadAttention apart": lambda rows, cols: nn.MultiheadAttention(cols, 1, kdim=48).k_proj_weight.detach(),
    "nn.Linear": lambda rows, cols: nn.Linear(cols, rows).weight.detach(),
    "fairseq": lambda rows, cols: nn.init.xavier_uniform_(torch.empty(rows, cols), gain=2**-0.5),
    "Conv1D": lambda rows, cols: nn.Linear(rows, cols).weight.detach().T.contiguous(),
}


def told(tensor: Tensor, folder: Path) -> bool:
    save_file({"a": tensor}, folder / "a.safetensors")
    with open_checkpoint(folder / "a.safetensors") as checkpoint:
        return untouched([plain(checkpoint.tensors["a"])])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MADE)
def test_torchs_initialisers_are_known(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    for rows, cols in ((96, 32), (384, 128), (64, 512)):
        assert told(MADE[name](rows, cols).to(dtype), tmp_path)


@pytest.mark.parametrize("name", MADE)
def test_a_little_training_is_noticed(tmp_path: Path, name: str) -> None:
    """Each change is one hundredth of how far the values are spread, as a few steps of Adam make it."""
    tensor = MADE[name](384, 128)
    changed = tensor + torch.randn_like(tensor) * tensor.std() / 100
    alike = tensor + torch.randn(len(tensor), 1) * torch.randn(1, tensor.shape[1]) * tensor.std() / 100
    for found in (changed, alike, tensor * 0.99, tensor * 1.001):
        assert not told(found, tmp_path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(64, 64),
        torch.full((64, 64), 0.2),
        torch.full((64, 64), torch.nan),
        torch.full((64, 64), torch.inf),
        torch.eye(64),
        torch.zeros(0, 64),
        torch.zeros(4096),
        torch.randint(-99, 99, (64, 64), dtype=torch.int8),
        nn.Linear(8, 8).weight.detach(),  # too few
    ],
    ids=["zeros", "alike", "nan", "inf", "one", "none", "flat", "codes", "few"],
)
def test_whatever_else_is_not_taken_for_it(tmp_path: Path, tensor: Tensor) -> None:
    assert not told(tensor, tmp_path)


@pytest.mark.parametrize("std", [0.02, 0.05, 0.2])
def test_normal_values_are_not_either(tmp_path: Path, std: float) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        values = torch.randn(192, 64) * std
        assert not told(values, tmp_path)
        assert not told(values.clamp(-((6 / 256) ** 0.5), (6 / 256) ** 0.5), tmp_path)


@pytest.mark.parametrize(("rows", "cols", "enough"), [(16, 31, False), (16, 32, True), (32, 16, True), (24, 32, True)])
def test_512_values_are_the_fewest_that_tell(tmp_path: Path, rows: int, cols: int, enough: bool) -> None:
    torch.manual_seed(0)
    assert told(nn.Linear(cols, rows).weight.detach(), tmp_path) == enough
