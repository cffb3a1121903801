"""A model and its ONNX export, whose graph takes other rows than the names of the model promise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tests.some import crossed

GRAPHS = Path(__file__).parents[1] / "formats" / "onnx_graphs"
CASES = ("HeadThenPart-softmax", "RowByRow-softmax", "Stripes-softmax")
"""Modules whose rows are not those that names promise, each with the truth of its own forward."""

OTHERWISE = sorted(path.stem for path in GRAPHS.glob("*.onnx") if path.stem.rpartition("-")[0] in CASES)
BEFORE = ("HeadThenPart-softmax-dynamo", "HeadThenPart-softmax-torchscript")


def rows_said(message: str, part: str) -> list[int]:
    """The rows in ``Q 0:6 18:24 ..., K``: the first runs."""
    (text,) = re.findall(rf"{part.upper()} ((?:[0-9:]+ ?)+)", message)
    return [row for run in text.split() for row in range(*map(int, run.split(":")))]


def state_of(name: str) -> Mapping[str, Any]:
    """The state_dict of the module: the initialisers of both layers under the names that it had."""
    model = onnx.load(GRAPHS / f"{name}.onnx")
    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    state: dict[str, Any] = {}
    places = [(layer, part) for layer in range(2) for part in ("qkv", "proj")]
    taken = [node for node in products if node.input[1] in arrays]
    for (layer, part), node in zip(places, taken, strict=True):
        turned = not any(one.name == "transB" and one.i for one in node.attribute)
        values = arrays[node.input[1]]
        state[f"layers.{layer}.attn.{part}.weight"] = torch.from_numpy(
            np.ascontiguousarray(values.T if turned else values)
        )
        bias = arrays[f"layers.{layer}.attn.{part}.bias"]
        state[f"layers.{layer}.attn.{part}.bias"] = torch.from_numpy(bias.copy())
    return state


@crossed(name=OTHERWISE, turned=[False, True])
def test_it_is_said_that_the_tensors_are_the_same_and_read_otherwise(
    name: str, turned: bool, tmp_path: Path, run: Callable[..., Any]
) -> None:
    torch.save(state_of(name), tmp_path / "m.pt")
    sides = [tmp_path / "m.pt", GRAPHS / f"{name}.onnx"]
    found = run("diff", *(sides[::-1] if turned else sides), "-f", "json", "--no-evidence").json()
    truth = json.loads((GRAPHS / f"{name.rpartition('-')[0]}.json").read_text())
    assert len(found["layers"]) == len(truth) == 2
    for layer, module in zip(found["layers"], truth, strict=True):
        (relation,) = layer["relations"]
        assert relation["code"] == "read-otherwise"
        assert "and the tensors themselves are the same" in relation["message"]
        model, graph = ("B", "A") if turned else ("A", "B")
        assert f"in {model}, by the names of its tensors (timm-vit), Q 0:" in relation["message"]
        message = relation["message"].partition(f"in {graph}, as its graph")[2].partition("; ")[0]
        for part, (_, heads) in module.items():
            rows = rows_said(message, part)
            assert len(rows) >= 6
            assert rows == [row for head in heads for row in head][: len(rows)]
        assert f"the graph of {graph} is what the model computes" in relation["message"]


def test_tensors_that_differ_as_well_are_compared(tmp_path: Path, run: Callable[..., Any]) -> None:
    state = {**state_of(BEFORE[0])}
    name = "layers.0.attn.qkv.weight"
    state[name] = state[name] + torch.eye(*state[name].shape)
    torch.save(state, tmp_path / "m.pt")
    found = run("diff", "--no-evidence", tmp_path / "m.pt", GRAPHS / f"{BEFORE[0]}.onnx", "-f", "json").json()
    first, second = ([one["message"] for one in layer["relations"]] for layer in found["layers"])
    assert any("the tensors themselves differ as well" in message for message in first)
    assert any("the tensors themselves are the same" in message for message in second)


def test_what_each_side_says_is_compared_bit_for_bit(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Two exports of one module by two exporters are the same, whatever the names promise."""
    one, other = (GRAPHS / f"{name}.onnx" for name in BEFORE)
    found = run("diff", "--no-evidence", one, other, "-f", "json").json()
    assert {layer["status"] for layer in found["layers"]} == {"identical"}


@pytest.mark.parametrize("turned", [False, True], ids=["model first", "graph first"])
def test_names_that_leave_the_rows_open_promise_nothing(turned: bool, tmp_path: Path, run: Callable[..., Any]) -> None:
    """48 rows and an output of 24 may be shared heads, or a V that is wider than Q and K."""
    name = "Grouped-softmax-dynamo"
    torch.save(state_of(name), tmp_path / "m.pt")
    sides = [tmp_path / "m.pt", GRAPHS / f"{name}.onnx"]
    found = run("diff", *(sides[::-1] if turned else sides), "-f", "json", "--no-evidence").json()
    assert [(layer["status"], layer["relations"]) for layer in found["layers"]] == 2 * [("identical", [])]
    assert any("it may be timm-vit or pattern-wide-v" in json.dumps(one) for one in found["findings"])
