"""What lies beside attention is compared whole where it is small, and where it is not, the sentence says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qkvinspect.lineage import beside_attention
from tests.lineage.compare import kinship
from tests.lineage.test_kinship import saved
from tests.lineage.test_making import RECIPES, State, changed
from tests.lineage.tiny import Model
from tests.some import crossed

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return saved(Model(RECIPES["rotary"], 1), tmp_path / "a")


def with_one_row_new(state: State) -> State:
    row = torch.randn(48, generator=torch.Generator().manual_seed(1))
    return {name: value.index_copy(0, torch.tensor([7]), row[None]) if name == EMBEDDING else value
            for name, value in state.items()}  # fmt: skip


def with_fewer_layers(state: State) -> State:
    return {name: value for name, value in state.items() if "layers.1." not in name}


def test_one_new_row_of_a_small_tensor_is_found(start: Path, tmp_path: Path) -> None:
    other = changed(with_one_row_new, start, tmp_path / "b")
    for pair in ((start, other), (other, start)):
        found = kinship(*pair)
        assert found.verdict == "kin"
        assert EMBEDDING in found.why


def test_a_new_row_that_is_not_among_those_looked_at_is_found_where_all_else_is_equal(
    start: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(beside_attention, "_WHOLE", 1000)
    found = kinship(start, changed(with_one_row_new, start, tmp_path / "b"))
    assert found.verdict == "kin"
    assert f"but {EMBEDDING} is not" in found.why


def test_rows_that_were_not_looked_at_are_spoken_of(start: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(beside_attention, "_WHOLE", 1000)
    found = kinship(start, changed(with_fewer_layers, start, tmp_path / "b"))
    assert "holds" not in found.why
    assert "of the 96 rows of model.layers.0.mlp.up_proj.weight, 8 were looked at" in found.why


def test_what_was_compared_whole_is_said_to_hold_nothing_else(start: Path, tmp_path: Path) -> None:
    found = kinship(start, changed(with_fewer_layers, start, tmp_path / "b"))
    assert (found.verdict, found.why) == ("derived", "B holds nothing that A has not")


def with_gates(state: State, seed: int = 2) -> State:
    generator = torch.Generator().manual_seed(seed)
    gates = {name.replace("up_proj", "gate_proj"): torch.randn(value.shape, generator=generator)
             for name, value in state.items() if "up_proj.weight" in name}  # fmt: skip
    return state | gates


def stacked(state: State, first: str, second: str) -> State:
    rest = {name: value for name, value in state.items() if "gate_proj" not in name and "up_proj.weight" not in name}
    for name in [name for name in state if "gate_proj" in name]:
        parts = [state[name.replace("gate_proj", one)] for one in (first, second)]
        rest[name.replace("gate_proj", "gate_up_proj")] = torch.cat(parts)
    return rest


@crossed(order=[("gate_proj", "up_proj"), ("up_proj", "gate_proj")], whole=[True, False])
def test_two_tensors_that_were_stacked_are_not_new(
    order, whole: bool, start: Path, tmp_path: Path, monkeypatch
) -> None:
    if not whole:
        monkeypatch.setattr(beside_attention, "_WHOLE", 1000)
    apart = changed(with_gates, start, tmp_path / "apart")
    one = changed(lambda state: stacked(state, *order), apart, tmp_path / "one")
    rounded = changed(lambda state: {name: value.bfloat16() for name, value in state.items()}, one, tmp_path / "short")
    for pair in ((apart, one), (one, apart), (apart, rounded)):
        found = kinship(*pair)
        assert found.verdict == "derived", found.why
        assert ("looked at" in found.why) != whole


def test_a_stack_of_which_one_half_is_new_is_new(start: Path, tmp_path: Path) -> None:
    apart = changed(with_gates, start, tmp_path / "apart")
    one = changed(lambda state: stacked(with_gates(state, 3), "gate_proj", "up_proj"), start, tmp_path / "one")
    for pair in ((apart, one), (one, apart)):
        found = kinship(*pair)
        assert found.verdict == "kin"
        assert "gate" in found.why
