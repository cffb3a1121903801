"""Modules of which onnxruntime quantised every operator, biases and norms too (``onnx_quantised/make.py``, whole)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qkvinspect
from qkvinspect.inspection.report import Attention
from tests.formats.test_onnx_graphs import GRAPHS, truth, weights_of

SOURCE = "HeadThenPart-softmax-torchscript"
FILES = Path(__file__).parent / "onnx_quantised" / "whole"


def said(one: Attention) -> dict[str, list[list[int]]]:
    return {part.name: [[*head] for head in part.heads] for part in one.parts}


@pytest.mark.parametrize("form", ["QOperator", "QDQ"])
def test_rows_and_biases_are_those_of_the_source(form: str) -> None:
    source = onnx.load(GRAPHS / f"{SOURCE}.onnx")
    biases = {one.name: numpy_helper.to_array(one) for one in source.graph.initializer if one.name.endswith("bias")}
    weights = weights_of(GRAPHS / f"{SOURCE}.onnx")
    with qkvinspect.open(str(FILES / f"{form}.onnx")) as checkpoint:
        layers = [checkpoint.layer(place) for place in ("layers.0.attn", "layers.1.attn")]
        for layer, module in zip(layers, truth(SOURCE), strict=True):
            assert said(layer.report) == {part: heads for part, (_, heads) in module.items()}
            for part, (name, heads) in module.items():
                rows = [row for head in heads for row in head]
                held, bias = getattr(layer, part), biases[name.replace(".weight", ".bias")]
                # eight bits of the largest number: half a step, or one where the zero point was rounded as well
                for found, values in ((held, weights[name]), (held.bias, bias)):
                    step = np.ptp(np.append(values, 0)) / 127
                    np.testing.assert_allclose(np.asarray(found), values[rows], rtol=0, atol=step)


def test_what_is_cut_as_codes_is_said_to_have_no_values(tmp_path: Path) -> None:
    """Before QLinearMatMul a graph may cut the codes themselves: the scale is an input of the product."""
    path = tmp_path / "m.onnx"
    model = onnx.load(FILES / "QOperator.onnx")
    stored = {one.name: one for one in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "QLinearMatMul" and node.input[3] in stored]
    for node in products:
        whole = node.input[3]
        stored[whole].name = f"{whole}_all"
        model.graph.node.append(onnx.helper.make_node("Slice", [f"{whole}_all", "start", "stop", "start"], [whole]))
    for name, value in (("start", 0), ("stop", 1 << 30)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    onnx.save(model, path)
    (place, *_) = (one.layer for one in qkvinspect.inspect(str(path)).attentions)
    with (
        qkvinspect.open(str(path)) as checkpoint,
        pytest.raises(qkvinspect.LayoutError, match="codes of an ONNX operator, which is not decoded"),
    ):
        checkpoint.layer(place).q.__array__()
