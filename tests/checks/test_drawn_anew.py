"""Parts that are as random numbers drawn once, beside others that were trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.checks.faults.damaged_block import find
from qkvinspect.checks.subject import Subject
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect

HEADS, WIDTH = 4, 64
State = dict[str, torch.Tensor]


def name(layer: int, part: str) -> str:
    return f"model.layers.{layer}.self_attn.{part}_proj.weight"


def drawn(kind: str, scale: torch.Tensor) -> torch.Tensor:
    values = torch.randn(WIDTH, WIDTH) if kind == "normal" else (2 * torch.rand(WIDTH, WIDTH) - 1) * 3**0.5
    return values * scale


def trained() -> torch.Tensor:
    """Heads of several sizes, each with a few directions that stand out, as training leaves them."""
    heads = torch.randn(HEADS, WIDTH // HEADS, WIDTH)
    heads += 3 * torch.randn(HEADS, WIDTH // HEADS, 2) @ torch.randn(HEADS, 2, WIDTH)
    return (heads * torch.linspace(0.5, 1.5, HEADS)[torch.randperm(HEADS), None, None]).flatten(0, 1) / 100


def stack(layers: int) -> State:
    return {name(layer, part): trained() for layer in range(layers) for part in "qkvo"}


def said(state: State, path: Path) -> list[tuple[str | None, str]]:
    save_file(state, path / "model.safetensors")
    with open_checkpoint(path / "model.safetensors") as checkpoint:
        found = list(find(Subject(inspect(checkpoint, Options(heads=(str(HEADS),))))))
    return [(layer, message) for layer, message in found if "drawn once" in message]


@pytest.mark.parametrize("kind", ["normal", "even"])
@pytest.mark.parametrize("part", "qkv")
def test_a_part_that_was_drawn_anew_is_named(part: str, kind: str, tmp_path: Path) -> None:
    state = stack(5)
    assert said(state, tmp_path) == []
    state[name(2, part)] = drawn(kind, state[name(2, part)].std())
    ((layer, message),) = said(state, tmp_path)
    assert layer == "model.layers.2.self_attn"
    assert message.startswith(f"{part.upper()} holds numbers that were drawn once, where that of 4 other layers")


def test_one_head_that_was_trained_is_enough_to_say_nothing(tmp_path: Path) -> None:
    state = stack(5)
    other, rows = drawn("normal", torch.tensor(0.01)), WIDTH // HEADS
    other[:rows] = state[name(2, "q")][:rows]
    state[name(2, "q")] = other
    assert said(state, tmp_path) == []


def test_a_layer_that_is_new_as_a_whole_may_be_meant(tmp_path: Path) -> None:
    state = stack(5) | {name(4, part): drawn("normal", torch.tensor(0.01)) for part in "qkv"}
    assert said(state, tmp_path) == []


def test_nothing_is_said_where_few_others_are_trained(tmp_path: Path) -> None:
    state = stack(3) | {name(1, "q"): drawn("normal", torch.tensor(0.01))}
    assert said(state, tmp_path) == []
    state = stack(7) | {name(layer, "q"): drawn("normal", torch.tensor(0.01)) for layer in (1, 2, 5)}
    assert said(state, tmp_path) == []
