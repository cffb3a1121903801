"""Graphs whose nodes stand before those that make what they take."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect
from qkvinspect.inspection.report import Attention
from tests.hostile.bounds import no_hang

GRAPHS = Path(__file__).parent / "onnx_graphs"


def seen(path: Path) -> list[tuple[object, ...]]:
    with open_checkpoint(path) as checkpoint:
        return [_rows(one) for one in inspect(checkpoint).attentions]


def _rows(one: Attention) -> tuple[object, ...]:
    return one.layer, one.heads, [(part.name, part.weight.name, part.heads) for part in one.parts]


@pytest.mark.parametrize("name", ["Misnamed-softmax-torchscript", "HeadThenPart-softmax-dynamo"])
@pytest.mark.parametrize("order", ["casts last", "backwards", "shuffled"])
def test_they_are_followed_as_those_in_order(name: str, order: str, tmp_path: Path) -> None:
    model = onnx.load(GRAPHS / f"{name}.onnx")
    given = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["cast" if one == given else one for one in node.input]
    nodes = [*model.graph.node, onnx.helper.make_node("Cast", [given], ["cast"], to=1)]
    if order == "backwards":
        nodes.reverse()
    if order == "shuffled":
        random.Random(0).shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "m.onnx")
    assert seen(tmp_path / "m.onnx") == seen(GRAPHS / f"{name}.onnx")


@pytest.mark.gate
def test_a_circle_is_left_as_it_stands(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Add", [f"v{(place + 1) % 20000}", "x"], [f"v{place}"]) for place in range(20000)]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [])), tmp_path / "m.onnx")
    with no_hang() as within:
        assert within(seen, tmp_path / "m.onnx") == []
