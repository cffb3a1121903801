"""What a graph makes of an input, as the onnx package computes it, beside what is reported of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import qkvinspect

WIDTH = 24
BATCH, TOKENS = 2, 5


class FusedMatMul(OpRun):
    """That of onnxruntime (docs/ContribOperators.md)."""

    op_domain = "com.microsoft"

    def _run(self, a: Any, b: Any, **attributes: Any) -> Any:
        a, b = (
            np.moveaxis(one, 0, -2) if attributes.get(f"transBatch{letter}") else one
            for one, letter in ((a, "A"), (b, "B"))
        )
        a = np.swapaxes(a, -1, -2) if attributes.get("transA") else a
        b = np.swapaxes(b, -1, -2) if attributes.get("transB") else b
        return (np.float32(attributes.get("alpha") or 1) * (a @ b),)


def model_of(nodes: Iterable[Any], stored: Mapping[str, Any], path: Path, inputs: Sequence[str] = ("x",)) -> Any:
    """Write a model of an input x of ``WIDTH``, and of what it stores."""
    given = [helper.make_tensor_value_info(one, onnx.TensorProto.FLOAT, [BATCH, TOKENS, WIDTH]) for one in inputs]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([*nodes], "g", given, [], tensors), opset_imports=opsets, ir_version=9)
    onnx.save(model, path)
    return model


def give_what_the_graph_gives(model: Any, path: Path, layer: str, values: Mapping[str, Sequence[str]], x: str) -> None:
    """Assert that each head of Q, K and V of a layer gives the numbers of the graph's values.

    Args:
        values: for each part the values of the graph that hold it, one a query head; [batch, tokens, width].
        x: the value that the layer's projections take.
    """
    names = [x, *(name for heads in values.values() for name in heads)]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names)
    rng = np.random.default_rng(1)
    inputs = {one.name: rng.standard_normal((BATCH, TOKENS, WIDTH), np.float32) for one in model.graph.input}
    found = dict(zip(names, ReferenceEvaluator(model, new_ops=[FusedMatMul]).run(names, inputs), strict=True))
    with qkvinspect.open(str(path)) as checkpoint:
        one = checkpoint.layer(layer)
        assert one.heads is not None
        for part, heads in values.items():
            assert len(one.heads) == len(heads)
            for head, name in zip(one.heads, heads, strict=True):
                rows = getattr(head, part)
                made = found[x] @ np.asarray(rows).T
                made = made if rows.bias is None else made + np.asarray(rows.bias)
                np.testing.assert_allclose(made, found[name], rtol=1e-4, atol=1e-4)
