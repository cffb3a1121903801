"""A small sound model whose weights look trained enough, and a way to break it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

LAYERS, WIDTH, HEADS = 8, 32, 4
State = dict[str, torch.Tensor]


def name(layer: int, tensor: str = "in_proj_weight") -> str:
    return f"layers.{layer}.self_attn.{tensor}"


@pytest.fixture
def sound(seeded: None) -> State:
    """A copy of it for each test, and the random numbers that come after it."""
    state, after = _sound()
    torch.default_generator.set_state(after)
    return {key: value.clone() for key, value in state.items()}


@functools.cache
def _sound() -> tuple[State, torch.Tensor]:
    """nn.TransformerEncoder's own names and initialisation, other values in every layer, and no zero bias."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    state = {key: value + 0.01 * torch.randn_like(value) for key, value in encoder.state_dict().items()}
    return state, torch.default_generator.get_state()


@pytest.fixture
def check(run: Any, tmp_path: Path) -> Callable[..., Any]:
    """Save a state_dict, check it, and give the findings as JSON: (code, layer, message) by severity."""

    def check(state: Mapping[str, Any], *options: object, suffix: str = ".pt", code: int | None = None) -> Any:
        path = tmp_path / f"model{suffix}"
        if suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(dict(state), path)
        else:
            torch.save(dict(state), path)
        result = run("check", path, "--heads", HEADS, "--format", "json", "--no-evidence", *options)
        assert code is None or result.code == code, result.out
        assert result.err == ""
        return result.json()["checkpoints"][0]["findings"]

    return check
