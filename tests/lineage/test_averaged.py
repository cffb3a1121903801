"""Heads of K and V that are means of others, plain or by ``convert --kv-heads``, are known again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.lineage import kinds
from tests.lineage.compare import kinship
from tests.lineage.tiny import Model, Recipe


def start(folder: Path, positions: str = "rotary") -> Path:
    torch.set_num_threads(1)
    return kinds.make(Model(Recipe(positions=positions), 1), 0, (), 0).save(folder)


def test_the_plain_mean_of_neighbours(tmp_path: Path) -> None:
    made = kinds.make(Model(Recipe(), 1), 0, (), 0)
    a = made.save(tmp_path / "a")
    for weights in made.attention:
        for name in (kinds.K, kinds.V):
            weights[name] = weights[name].unflatten(0, (3, 2, 8)).mean(1).flatten(0, 1).contiguous()
    b = made.save(tmp_path / "b")
    config = json.loads((b / "config.json").read_text())
    (b / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 3}))
    there, back = kinship(a, b), kinship(b, a)
    assert (there.verdict, there.descendant) == ("derived", "b")
    assert (back.verdict, back.descendant) == ("derived", "a")
    assert "averaged" in there.why


@pytest.mark.parametrize("positions", ["rotary", pytest.param("learned", marks=pytest.mark.gate)])
def test_the_mean_of_heads_that_were_turned_upon_each_other(positions: str, tmp_path: Path, run) -> None:
    a = start(tmp_path / "a", positions)
    (tmp_path / "b").mkdir()
    rotary = ("--rotary", "halves" if positions == "rotary" else "none")
    result = run("convert", a, "--kv-heads", 2, *rotary, "-o", tmp_path / "b/model.safetensors")
    assert result.code == 0, result.err
    config = json.loads((a / "config.json").read_text())
    (tmp_path / "b/config.json").write_text(json.dumps({**config, "num_key_value_heads": 2}))
    there, back = kinship(a, tmp_path / "b"), kinship(tmp_path / "b", a)
    assert (there.verdict, there.descendant) == ("derived", "b")
    assert (back.verdict, back.descendant) == ("derived", "a")


def test_heads_that_each_of_their_users_has_a_copy_of_are_repeated(tmp_path: Path) -> None:
    made = kinds.make(Model(Recipe(kv_heads=3), 1), 0, (), 0)
    a = made.save(tmp_path / "a")
    for weights in made.attention:
        for name in (kinds.K, kinds.V):
            weights[name] = weights[name].unflatten(0, (3, 8)).repeat_interleave(2, 0).flatten(0, 1).contiguous()
    b = made.save(tmp_path / "b")
    config = json.loads((b / "config.json").read_text())
    (b / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 6}))
    for pair in ((a, b), (b, a)):
        found = kinship(*pair)
        assert (found.verdict, found.descendant) == ("derived", None)
        assert found.why.endswith("but with heads of K and V repeated")
