"""What became of each head and layer, where it is known: FATES.txt has all 200 cases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.lineage import kinds, made_fates
from tests.lineage.compare import kinship
from tests.lineage.made_fates import HEADS, LAYERS, RECIPES, Row, after, case_of, every, found_rows, judged
from tests.lineage.tiny import Model


@pytest.fixture(scope="module", params=["rotary", pytest.param("learned", marks=pytest.mark.mass)])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model, Path]:
    torch.set_num_threads(1)
    model, stranger = (Model(RECIPES[request.param], seed) for seed in (1, 2))
    return model, stranger, kinds.make(model, 0, (), 0).save(tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("name", [*HEADS, *LAYERS])
def test_the_fate_of_each_head_and_layer_is_told(models: tuple[Model, Model, Path], name: str, tmp_path: Path) -> None:
    model, stranger, start = models
    case = case_of(model, stranger, name, 7)
    after(case, "moved")
    found = kinship(start, case.made.save(tmp_path / "made"))
    layers = name in LAYERS
    assert found_rows(found, layers=layers) == {*case.rows.values()}


@pytest.mark.parametrize("parts", ["qk", "vo"])
def test_heads_that_exchanged_one_circuit_are_half_kept_where_they_are(
    models: tuple[Model, Model, Path], parts: str, tmp_path: Path
) -> None:
    model, stranger, start = models
    case = case_of(model, stranger, "untouched", 7)
    weights = case.made.attention[2]
    both = [made_fates.heads_of(case, weights, group) for group in (1, 0)]
    for group, other in enumerate([{part: one[part].clone() for part in parts} for one in both]):
        made_fates.put(case, weights, group, other)
        case.say(2, group, "half kept")
    found = kinship(start, case.made.save(tmp_path / "made"))
    assert found_rows(found, layers=False) == {*case.rows.values()}


TURNED_ROUND = {
    "removed": "added",
    "added": "removed",
    "zeroed": "filled",
    "filled": "zeroed",
    "copied": "merged",
    "merged": "copied",
}


@pytest.mark.parametrize("name", ["new, random", "swapped across layers", "output zeros", "copied within a layer"])
@pytest.mark.gate
def test_fates_turn_round_with_the_two(models: tuple[Model, Model, Path], name: str, tmp_path: Path) -> None:
    model, stranger, start = models
    case = case_of(model, stranger, name, 3)
    made = case.made.save(tmp_path / "made")
    there, back = (found_rows(kinship(*two), layers=False) for two in ((start, made), (made, start)))
    assert {row[:5] for row in there} == _swapped(back)  # the other way round what a copy is like has no name


def _swapped(rows: set[Row]) -> set[Row]:
    return {(TURNED_ROUND.get(fate, fate), *b, *a) for fate, *rest in rows for a, b in [(rest[:2], rest[2:4])]}


@pytest.mark.mass
@pytest.mark.parametrize("seed", [70_000, 80_000])
def test_all_fates_are_right_or_open(tmp_path: Path, seed: int) -> None:
    said = [row[3] for row in every(tmp_path, seed)]
    assert len(said) == 200
    assert "wrong" not in said
    assert said.count("right") >= 190


def test_what_is_not_said_is_not_held_to_be_right(models: tuple[Model, Model, Path], tmp_path: Path) -> None:
    """The judge itself: another treatment than what was done is wrong."""
    model, stranger, start = models
    made = case_of(model, stranger, "new, random", 7)
    other = case_of(model, stranger, "swapped within a layer", 7)
    found = kinship(start, made.made.save(tmp_path / "made"))
    assert judged(made, found, layers=False) == "right"
    assert judged(other, found, layers=False) == "wrong"
