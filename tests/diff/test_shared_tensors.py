"""A model as it is begun, whose equal vectors onnxruntime's optimiser stores once (formats/onnx_models/make.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent / "onnx_shared"
OPTIMISED = FOLDER / "bert-new-attention.onnx"


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_stored_once_is_not_missing(turned: bool, run: Callable[..., Any]) -> None:
    sides = [FOLDER / "bert-new.safetensors", OPTIMISED]
    found = run("diff", "--no-evidence", *(sides[::-1] if turned else sides))
    assert found.code == 0
    side, other = ("A", "B") if turned else ("B", "A")
    assert f"8 tensors of {other} are in {side} under another name" in found.out
    assert "removed" not in found.out
    assert "added" not in found.out


def test_other_values_are_still_missing(tmp_path: Path, run: Callable[..., Any]) -> None:
    """A norm that holds something else is in no tensor of the graph; a bias is another one than where it is added."""
    state = load_file(FOLDER / "bert-new.safetensors")
    norm, bias = "encoder.layer.1.output.LayerNorm.weight", "encoder.layer.1.attention.output.dense.bias"
    changed = [key for key in state if key.endswith((norm, bias))]
    assert len(changed) == 2
    save_file(state | {key: state[key] + 0.5 for key in changed}, tmp_path / "m.safetensors")
    found = run("diff", "--no-evidence", tmp_path / "m.safetensors", OPTIMISED, "-f", "json").json()
    missing = found["others"]["tensors"]
    parts = [part["part"] for layer in found["layers"] for part in layer["parts"] if part["status"] == "changed"]
    assert [(one["status"], one["a"].endswith(norm)) for one in missing] == [("removed", True)]
    assert parts == ["out_bias"]


def test_there_are_no_more_of_them_than_places(tmp_path: Path, run: Callable[..., Any]) -> None:
    state = load_file(FOLDER / "bert-new.safetensors")
    ones = next(values for key, values in state.items() if key.endswith("LayerNorm.weight"))
    save_file(state | {"one.more": ones.clone()}, tmp_path / "m.safetensors")
    found = run("diff", "--no-evidence", tmp_path / "m.safetensors", OPTIMISED)
    assert found.code == 1
    assert "1 removed" in found.out


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("turned", [False, True])
def test_norms_that_an_exporter_added_one_to_are_the_same(exporter: str, turned: bool, run: Callable[..., Any]) -> None:
    """Gemma's: neither their names nor their numbers are in the file."""
    sides = [FOLDER / "gemma.safetensors", FOLDER / f"gemma-{exporter}.onnx"]
    found = run("diff", "--no-evidence", *(sides[::-1] if turned else sides), "-f", "json").json()
    others = {one["a"]: one for one in found["others"]["tensors"]}
    norms = [name for name in others if name and "norm" in name]
    assert len(norms) == 3
    assert all(others[name]["b"] for name in norms)
    assert all(others[name]["status"] in ("identical", "rounding") for name in norms)
    assert {one["status"] for one in found["layers"]} == {"identical"}
    assert any("and 1 more" in note for note in found["notes"])


def test_a_norm_that_is_another_one_is_not_taken_for_it(tmp_path: Path, run: Callable[..., Any]) -> None:
    state = load_file(FOLDER / "gemma.safetensors")
    (changed,) = (key for key in state if key.endswith("layers.0.input_layernorm.weight"))
    save_file(state | {changed: state[changed] + 0.5}, tmp_path / "m.safetensors")
    found = run(
        "diff", "--no-evidence", tmp_path / "m.safetensors", FOLDER / "gemma-torchscript.onnx", "-f", "json"
    ).json()
    left = {(one["a"] or one["b"]).rpartition(".layers.")[2]: one["status"] for one in found["others"]["tensors"]}
    assert left["0.input_layernorm.weight"] == "removed"
    assert left["0.input_layernorm.folded"] == "added"
