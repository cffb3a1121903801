"""ONNX weights that are codes: decoded as the onnx package's own evaluator does, or said not to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import load_file

PLACE = "layers.0.self_attn"


def saved(path: Path, form: str, op: str = "MatMul", axis: int = 1, dtype: Any = np.int8) -> Path:
    """Three products of dequantised weights of 24 inputs and 16 rows, by one scale or one for each row."""
    rng, nodes, tensors = np.random.default_rng(0), [], []
    for part in "qkv":
        name = f"{PLACE}.{part}_proj.weight"
        shape = (16, 24) if op == "Gemm" else (24, 16)
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        size = () if form == "one" else (shape[axis],)
        codes, zeros = (rng.integers(low, high, one).astype(dtype) for one in (shape, size))
        scales = (0.01 + rng.random(size)).astype(np.float32)
        values = {"quantized": codes, "scale": np.asarray(scales), "zero_point": np.asarray(zeros)}
        tensors += [numpy_helper.from_array(value, f"{name}_{kind}") for kind, value in values.items()]
        nodes.append(helper.make_node("DequantizeLinear", [t.name for t in tensors[-3:]], [f"{part}_w"], axis=axis))
        more = {"transB": 1} if op == "Gemm" else {}
        path_of_node = f"/layers.0/self_attn/{part}_proj/{op}"
        nodes.append(helper.make_node(op, ["x", f"{part}_w"], [f"{part}_y"], name=path_of_node, **more))
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (24, 24))]
    outputs = [helper.make_tensor_value_info(f"{part}_w", TensorProto.FLOAT, None) for part in "qkv"]
    graph = helper.make_graph(nodes, "g", info, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), path)
    return path


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize(("form", "op", "axis"), [("one", "MatMul", 1), ("rows", "MatMul", 1), ("rows", "Gemm", 0)])
def test_the_numbers_are_those_of_the_evaluator(
    form: str, op: str, axis: int, dtype: Any, tmp_path: Path, run: Callable[..., Any]
) -> None:
    path, out = saved(tmp_path / "m.onnx", form, op, axis, dtype), tmp_path / "out.safetensors"
    done = run("export", "--split", path, "-o", out, "--dequantize", "float32", "--heads", "4")
    assert done.code == 0, done.err
    expected = ReferenceEvaluator(onnx.load(path)).run(None, {"x": np.zeros((24, 24), np.float32)})
    found = load_file(out)
    for part, values in zip("qkv", expected, strict=True):
        assert np.array_equal(found[f"{PLACE}.{part}_proj.weight"], values if op == "Gemm" else values.T)


@pytest.mark.parametrize(
    ("axis", "dtype"), [(0, np.int8), (1, np.int16)], ids=["scales along the inputs", "another type"]
)
def test_other_codes_are_said_not_to_be_decoded(axis: int, dtype: Any, tmp_path: Path, run: Callable[..., Any]) -> None:
    found = run("show", saved(tmp_path / "m.onnx", "rows", "MatMul", axis, dtype), "-f", "json")
    assert found.code == 0
    messages = [finding["message"] for finding in found.json()["findings"]]
    assert any("is stored as codes of an ONNX operator, which is not decoded" in one for one in messages)
