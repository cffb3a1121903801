"""``qkvinspect lineage`` from the command line."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from qkvinspect.lineage.kinship import VERDICTS
from tests.lineage import kinds
from tests.lineage.compare import compared
from tests.lineage.tiny import Model, Recipe

SCHEMA = json.loads((Path(__file__).parents[2] / "qkvinspect/render/results/lineage.schema.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lineage")
    model = Model(Recipe(), 1)
    kinds.make(model, 0, (), 0).save(place / "base")
    kinds.make(model, 0, ("heads pruned", "permuted"), 0).save(place / "pruned")
    kinds.make(Model(Recipe(), 2), 0, (), 0).save(place / "other")
    return place


def test_two_checkpoints_are_a_verdict_and_a_map(folder: Path, run) -> None:
    result = run("lineage", folder / "base", folder / "pruned")
    assert result.code == 0
    assert result.out.splitlines()[-1].startswith("derived; B was made from A; p = ")
    assert "removed: 6 heads" in result.out
    assert "24 of 24 units of the residual stream are in place" in result.out
    maps = [line.split()[-1] for line in result.out.splitlines() if " kept " in line]
    assert [sorted(line) for line in maps] == [["0"] * 4 + ["x"] * 2] * 3


def test_several_checkpoints_are_a_table_and_a_tree(folder: Path, run) -> None:
    result = run("lineage", *(folder / name for name in ("base", "pruned", "other")))
    assert result.out.splitlines()[-1] == "1 derived, 2 unrelated"
    assert "└─ B" in result.out


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ("base", "pruned", {"derived", "kin"}),
        ("base", "other", {"unrelated"}),
        ("base", "base", {"identical", "derived", "kin"}),
        ("pruned", "base", {"kin"}),  # what came first is not derived from what came later
    ],
)
def test_what_is_expected_and_met(folder: Path, a: str, b: str, said: set[str]) -> None:
    found = compared(folder / a, folder / b)
    assert {verdict for verdict in VERDICTS if found.answers(verdict)} == said


@pytest.mark.parametrize(
    ("b", "expected", "code"), [("pruned", "kin", 0), ("pruned", "common-ancestor", 1), ("other", "kin", 1)]
)
def test_expect_sets_the_exit_code(folder: Path, run, b: str, expected: str, code: int) -> None:
    assert run("lineage", folder / "base", folder / b, "--expect", expected).code == code


def test_json_is_as_its_schema_says(folder: Path, run) -> None:
    result = run("lineage", *(folder / name for name in ("base", "pruned", "other")), "--format", "json")
    found = json.loads(result.out)
    jsonschema.validate(found, SCHEMA)
    assert [pair["verdict"] for pair in found["pairs"]] == ["derived", "unrelated", "unrelated"]
    assert [len(layer["heads"]) for layer in found["pairs"][0]["layers"]] == [6, 6, 6]


def test_csv_has_a_row_for_each_head(folder: Path, run) -> None:
    result = run("lineage", folder / "base", folder / "pruned", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert len(rows) == 18
    assert sum(row["fate"] == "removed" for row in rows) == 6


@pytest.mark.parametrize("kind", ["svg", "html"])
def test_the_picture_has_a_square_for_each_head_and_a_point_for_each_checkpoint(
    folder: Path, run, tmp_path: Path, kind: str
) -> None:
    plot = tmp_path / f"heads.{kind}"
    assert run("lineage", *(folder / name for name in ("base", "pruned", "other")), "--plot", plot, "-q").code == 0
    drawn = plot.read_text()
    root = ElementTree.fromstring(drawn[drawn.index("<svg") : drawn.index("</svg>") + 6])
    svg = "{http://www.w3.org/2000/svg}"
    squares = [one for one in root.iter(f"{svg}rect") if one.find(f"{svg}title") is not None]
    said = [one.findtext(f"{svg}title") or "" for one in squares]
    assert len(squares) == 18
    assert [text.split(":")[0].split(" ->")[0] for text in said] == [f"head {head}" for head in range(6)] * 3
    assert sum("removed" in text for text in said) == 6
    assert len(list(root.iter(f"{svg}circle"))) == 3
    assert len(list(root.iter(f"{svg}path"))) == 1  # the stranger hangs on nothing


def test_a_picture_of_another_kind_is_refused_before_any_work(folder: Path, run, tmp_path: Path) -> None:
    result = run("lineage", folder / "base", folder / "nowhere", "--plot", tmp_path / "heads.gif")
    assert result.code == 2
    assert ".svg or .html" in result.err


def test_one_checkpoint_is_not_enough(folder: Path, run) -> None:
    result = run("lineage", folder / "base")
    assert result.code == 2
    assert "name two checkpoints or more" in result.err


def test_without_scipy_the_error_says_what_to_install(folder: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    result = run("lineage", folder / "base", folder / "other")
    assert result.code == 2
    assert "qkvinspect[lineage]" in result.err


def test_a_checkpoint_without_attention_is_undetermined(folder: Path, run, samples: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"linear.weight": torch.zeros(4, 4)}, tmp_path / "none.safetensors")
    result = run("lineage", folder / "base", tmp_path / "none.safetensors")
    assert result.code == 0
    assert result.out.splitlines()[-1] == "undetermined"
    assert "it has no attention" in result.out
