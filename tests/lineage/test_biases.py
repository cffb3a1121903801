"""A bias that is new is named, and one that was set to zero is nothing new."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.lineage import kinds
from tests.lineage.compare import kinship
from tests.lineage.test_kinship import saved
from tests.lineage.test_making import RECIPES, State, changed
from tests.lineage.tiny import Model

PARTS = {"q": 48, "k": 24, "v": 24, "o": 48}


def with_biases(state: State, new: tuple[tuple[int, str], ...] = ()) -> State:
    """Give each part of each layer a bias; some of another seed."""
    biases: State = {}
    for layer in range(2):
        for part, size in PARTS.items():
            seed = 10 * layer + ord(part) + 1000 * ((layer, part) in new)
            biases[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = torch.randn(
                size, generator=torch.Generator().manual_seed(seed)
            )
    return state | biases


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return changed(with_biases, saved(Model(RECIPES["rotary"], 1), tmp_path / "bare"), tmp_path / "a")


@pytest.mark.parametrize("part", PARTS)
def test_a_new_bias_is_named(part: str, start: Path, tmp_path: Path) -> None:
    other = changed(lambda state: with_biases(state, ((1, part),)), start, tmp_path / "b")
    for pair in ((start, other), (other, start)):
        found = kinship(*pair)
        assert found.verdict == "kin"
        assert f"but model.layers.1.self_attn.{part}_proj.bias is not" in found.why


@pytest.mark.parametrize("some", [("Q4",), ("permuted",), ("rotated",)])
def test_so_it_is_where_heads_were_changed_too(some: tuple[str, ...], tmp_path: Path) -> None:
    model = Model(RECIPES["rotary"], 1)
    start = changed(with_biases, saved(model, tmp_path / "bare"), tmp_path / "a")
    changed_heads = kinds.make(model, 0, some, 3).save(tmp_path / "heads")
    new = tuple((layer, part) for layer in range(2) for part in "qkv")
    other = changed(lambda state: with_biases(state, new), changed_heads, tmp_path / "b")
    found = kinship(start, other)
    assert found.verdict == "kin"
    assert "self_attn.q_proj.bias is not" in found.why


def test_codes_with_the_same_biases_are_nothing_new(tmp_path: Path) -> None:
    model = Model(RECIPES["rotary"], 1)
    start = changed(with_biases, saved(model, tmp_path / "bare"), tmp_path / "a")
    codes = kinds.make(model, 0, ("Q4",), 3).save(tmp_path / "codes")
    assert kinship(start, changed(with_biases, codes, tmp_path / "b")).verdict == "derived"


@pytest.mark.parametrize("parts", ["q", "k", "v", "qkv"])
def test_biases_that_were_set_to_zero_are_nothing_new(parts: str, start: Path, tmp_path: Path) -> None:
    def emptied(state: State) -> State:
        ends = tuple(f"{part}_proj.bias" for part in parts)
        return {name: torch.zeros_like(value) if name.endswith(ends) else value for name, value in state.items()}

    other = changed(emptied, start, tmp_path / "b")
    there, back = kinship(start, other), kinship(other, start)
    assert (there.verdict, there.descendant) == ("derived", "b")
    assert (back.verdict, back.descendant) == ("derived", "a")
    assert there.why == "B holds nothing that A has not, but set to zero"


def test_a_bias_of_zeros_is_as_none(start: Path, tmp_path: Path) -> None:
    def is_bias(name: str) -> bool:
        return name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias"))

    zeros = changed(lambda state: {name: value * (not is_bias(name)) for name, value in state.items()},
                    start, tmp_path / "b")  # fmt: skip
    none = changed(lambda state: {name: value for name, value in state.items() if not is_bias(name)},
                   zeros, tmp_path / "c")  # fmt: skip
    found = kinship(zeros, none)
    assert (found.verdict, found.why) == ("derived", "neither holds anything that the other has not")
