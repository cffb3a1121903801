"""``diff --align``: B is compared once what changes no output was undone."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import torch

from qkvinspect.diff.aligned import _numbered
from tests.lineage import kinds
from tests.lineage.tiny import Model, Recipe

SCHEMA = json.loads((Path(__file__).parents[2] / "qkvinspect/render/results/difference.schema.json").read_text())
QUICK = "--no-evidence"
ROTARY = Recipe(positions="rotary", norm="rms", kv_heads=3)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(ROTARY, 1)


def made(model: Model, some: tuple[str, ...], folder: Path) -> Path:
    return kinds.make(model, 0, some, 3).save(folder)


@pytest.mark.parametrize("some", [("permuted", "rescaled"), ("rotated", "packed")])
def test_what_changes_no_output_is_no_difference(model: Model, some: tuple[str, ...], tmp_path: Path, run) -> None:
    a, b = made(model, (), tmp_path / "a"), made(model, some, tmp_path / "b")
    assert run("diff", QUICK, a, b, "--attention-only").code == 1
    result = run("diff", QUICK, a, b, "--align", "--attention-only")
    assert result.code == 0, result.out
    assert "undone in model.layers.0.self_attn: " in result.out
    assert ("rotated 3" in result.out) == ("rotated" in some)


def test_heads_that_were_only_put_in_another_order_are_bit_for_bit_the_same(model: Model, tmp_path: Path, run) -> None:
    a, b = made(model, (), tmp_path / "a"), made(model, ("permuted",), tmp_path / "b")
    found = json.loads(run("diff", QUICK, a, b, "--align", "--format", "json").out)
    jsonschema.validate(found, SCHEMA)
    assert {part["status"] for layer in found["layers"] for part in layer["parts"]} == {"identical"}
    assert all("another place" in layer["undone"][0] for layer in found["layers"])


def test_layers_and_heads_that_were_cut_off_are_removed_and_the_rest_is_the_same(
    model: Model, tmp_path: Path, run
) -> None:
    a = made(model, (), tmp_path / "a")
    pruned = kinds.make(model, 0, ("heads pruned", "layer pruned", "rotated"), 3)
    result = run("diff", QUICK, a, pruned.save(tmp_path / "b"), "--align", "--format", "json")
    assert result.code == 1
    found = json.loads(result.out)
    jsonschema.validate(found, SCHEMA)
    gone = {0, 1, 2} - {layer for layer, _ in pruned.origins}
    cut = [f"model.layers.{layer}.self_attn: heads {', '.join(map(str, sorted({*range(6)} - {*heads})))}"
           for layer, heads in pruned.origins]  # fmt: skip
    assert found["removed"] == [f"model.layers.{layer}.self_attn" for layer in gone]
    assert found["removed_heads"] == cut
    assert [(layer["a"], layer["b"]) for layer in found["layers"]] == [
        (f"model.layers.{layer}.self_attn", f"model.layers.{place}.self_attn")
        for place, (layer, _) in enumerate(pruned.origins)
    ]
    assert {layer["status"] for layer in found["layers"]} <= {"identical", "tolerated"}
    assert found["others"]["changed"] == 0  # the MLPs of layers are those of their partners


def test_a_head_that_was_changed_is_seen_where_it_stood_in_a(model: Model, tmp_path: Path, run) -> None:
    a = made(model, (), tmp_path / "a")
    moved = kinds.make(model, 0, ("permuted", "rotated"), 3)
    place = moved.origins[1][1].index(4)
    moved.attention[1][kinds.Q][place * 8 : place * 8 + 8] *= 1.2
    found = json.loads(run("diff", QUICK, a, moved.save(tmp_path / "b"), "--align", "--format", "json").out)
    (q,) = (part for part in found["layers"][1]["parts"] if part["part"] == "q")
    assert [head["head"] for head in q["heads"] if head["status"] == "changed"] == [4]
    assert q["heads"][4]["relative_l2"] == pytest.approx(0.2, rel=0.15)
    assert {layer["status"] for layer in found["layers"][::2]} == {"tolerated"}


def test_what_training_moved_is_left_as_it_is(model: Model, tmp_path: Path, run) -> None:
    a, near = made(model, (), tmp_path / "a"), kinds.make(model, 0, (), 3)
    generator = torch.Generator().manual_seed(4)
    for weights in near.attention:
        for name, value in weights.items():
            weights[name] = value + 0.2 * value.std() * torch.randn(value.shape, generator=generator)
    b = near.save(tmp_path / "b")
    found = json.loads(run("diff", QUICK, a, b, "--align", "--format", "json").out)
    assert not any("undone" in layer for layer in found["layers"])
    plain = json.loads(run("diff", QUICK, a, b, "--format", "json").out)
    assert [layer["parts"] for layer in found["layers"]] == [layer["parts"] for layer in plain["layers"]]
    assert not any("rotated" in note for note in found["notes"])


def test_strangers_are_not_aligned(model: Model, tmp_path: Path, run) -> None:
    a, b = made(model, (), tmp_path / "a"), made(Model(ROTARY, 2), (), tmp_path / "b")
    result = run("diff", QUICK, a, b, "--align")
    assert result.code == 2
    assert "no kin: unrelated" in result.err


@pytest.mark.parametrize("name", ["layers.3.weight", "layers.3.q.weight", "layers.3.attn.q.weight"])
def test_a_tensor_s_block_is_what_its_last_number_ends(name: str) -> None:
    assert _numbered(f"model.{name}") == "model.layers.3"
    assert _numbered(f"model.{name.replace('.3.', '.')}") == ""
