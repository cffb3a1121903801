"""Files of onnxruntime's quantisers: every number is that which its own operators give (``onnx_quantised/make.py``)."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

from qkvinspect.explain.snippet import python
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect
from qkvinspect.weights.encodings import weights_of
from tests.some import crossed

FILES = Path(__file__).parent / "onnx_quantised"
FILED = sorted(path.stem for path in FILES.glob("*.onnx"))
NOT_DECODED = "qdq_int4"
NAMES = [name for name in FILED if name != NOT_DECODED]
BLOCKS = [name for name in NAMES if name.startswith("nbits")]
ATTENTION = "model.layers.0.self_attn"


def decoded(weight: Any) -> Any:
    assert weight.encoding is not None, weight.why
    return weight.encoding.decode(*(range(size) for size in weight.encoding.shape))


@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_that_of_onnxruntime(name: str) -> None:
    expected = load_file(FILES / f"{name}.values.safetensors")
    assert len(expected) == 4
    with open_checkpoint(FILES / f"{name}.onnx") as checkpoint:
        weights = weights_of(checkpoint)
        for key, values in expected.items():
            weight = weights[key]
            assert weight.shape == values.shape
            assert np.array_equal(decoded(weight), values), key
            assert weight.encoding is not None
            some = weight.encoding.decode(range(3, 17, 2), range(5, 38))
            assert np.array_equal(some, values[3:17:2, 5:38])


@pytest.mark.parametrize("name", FILED)
def test_layers_and_heads_are_those_of_the_model(name: str) -> None:
    with open_checkpoint(FILES / f"{name}.onnx") as checkpoint:
        (layer,) = inspect(checkpoint).attentions
    assert layer.layer == ATTENTION
    assert layer.heads is not None
    assert (layer.heads.num_heads, layer.heads.num_kv_heads, layer.heads.head_dim) == (4, 2, 10)
    assert [part.shape for part in layer.parts] == [(40, 40), (20, 40), (20, 40)]


@pytest.mark.parametrize("name", NAMES)
def test_the_code_gives_the_numbers(name: str) -> None:
    expected = load_file(FILES / f"{name}.values.safetensors")
    with open_checkpoint(FILES / f"{name}.onnx") as checkpoint:
        (layer,) = inspect(checkpoint).attentions
        found: dict[str, Any] = {"torch": torch, "onnx": onnx}
        exec(textwrap.dedent("\n".join(python(layer, checkpoint))), found)
        for part in layer.parts:
            assert np.array_equal(found[part.name].float().numpy(), expected[f"{ATTENTION}.{part.name}_proj.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_model_but_for_its_rounding(name: str, run: Callable[..., Any]) -> None:
    found = run("diff", FILES / "original.safetensors", FILES / f"{name}.onnx", "-f", "json", "--no-evidence")
    (layer,) = json.loads(found.out)["layers"]
    assert layer["status"] == "rounding"
    assert all(part["values_changed"] == 0 for part in layer["parts"])


def test_other_codes_have_their_shapes_and_are_said_not_to_be_decoded() -> None:
    with open_checkpoint(FILES / f"{NOT_DECODED}.onnx") as checkpoint:
        weights = weights_of(checkpoint)
        for key, values in load_file(FILES / f"{NOT_DECODED}.values.safetensors").items():
            assert weights[key].shape == values.shape
            assert "is stored as codes of an ONNX operator, which is not decoded" in weights[key].why


@crossed(command=["show", "explain", "check", "analyze"], name=["nbits4_zeros", "dynamic_uint8", "static_operators"])
def test_every_command_takes_it(command: str, name: str, run: Callable[..., Any]) -> None:
    found = run(command, FILES / f"{name}.onnx")
    assert found.code == 0, found
    assert not found.err


@pytest.mark.parametrize("name", BLOCKS)
def test_rows_are_cut_as_they_are_stored(name: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    out = tmp_path / "out.safetensors"
    done = run("export", "--split", FILES / f"{name}.onnx", "-o", out, "--no-evidence")
    assert done.code == 0, done.err
    parts, held = load_file(out), onnx.load(FILES / f"{name}.onnx")
    stored = {one.name: numpy_helper.to_array(one) for one in held.graph.initializer}
    nodes = [node for node in held.graph.node if node.op_type == "MatMulNBits"][:3]
    for part, node in zip("qkv", nodes, strict=True):
        for leaf, given in zip(("codes", "scales", "zero_points"), node.input[1:], strict=False):
            found = parts[f"{ATTENTION}.{part}_proj.weight.nbits_{leaf}"]
            assert np.array_equal(found.reshape(stored[given].shape), stored[given])


def packed(bits: int, block: int, wide: int, order: bool, points: str) -> tuple[dict[str, Any], Any]:
    """The tensors of a MatMulNBits of 12 rows, and its numbers by the operator's formula."""
    rng, blocks = np.random.default_rng(bits), -(-wide // block)
    codes = rng.integers(0, 1 << bits, (12, blocks * block))
    scales = (0.01 + rng.random((12, blocks))).astype(np.float32)
    zeros = rng.integers(0, 1 << bits, (12, blocks)) if points else np.full((12, blocks), 1 << bits - 1)
    group = np.arange(blocks * block) // block
    if order:
        group = rng.permutation(group)
    tensors = {"B": _bytes(codes, bits).reshape(12, blocks, -1), "scales": scales.ravel()}
    if points:
        tensors["zeros"] = _bytes(zeros, bits).ravel() if points == "packed" else zeros.astype(np.float32)
    if order:
        tensors["g_idx"] = group.astype(np.int32)
    numbers = (codes - zeros[:, group]).astype(np.float32) * scales[:, group]
    return tensors, numbers[:, :wide]


def _bytes(codes: Any, bits: int) -> Any:
    """Rows of codes as bytes, the first code in the lowest bits, each row filled up."""
    each = 8 // bits
    filled = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each))).reshape(len(codes), -1, each)
    return (filled << np.arange(0, 8, bits)).sum(-1).astype(np.uint8)


def saved(path: Path, tensors: dict[str, Any], numbers: dict[str, int]) -> Path:
    named = {f"a.q_proj.weight_Q4{key}".removesuffix("B"): value for key, value in tensors.items()}
    more: dict[str, Any] = dict(numbers)
    inputs = ["x", *(f"a.q_proj.weight_Q4{key}".removesuffix("B") if key in tensors else "" for key in _SLOTS)]
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **more)
    stored = [numpy_helper.from_array(value, name) for name, value in named.items()]
    onnx.save(helper.make_model(helper.make_graph([node], "g", [], [], stored)), path)
    return path


_SLOTS = ("B", "scales", "zeros", "g_idx")


@pytest.mark.parametrize("points", ["", "packed", "floats"])
@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize(("bits", "block", "wide"), [(2, 16, 40), (4, 32, 96), (8, 16, 50)])
def test_every_form_of_the_operator(bits: int, block: int, wide: int, order: bool, points: str, tmp_path: Path) -> None:
    tensors, expected = packed(bits, block, wide, order, points)
    path = saved(tmp_path / "m.onnx", tensors, {"K": wide, "N": 12, "bits": bits, "block_size": block})
    with open_checkpoint(path) as checkpoint:
        weight = weights_of(checkpoint)["a.q_proj.weight"]
        assert np.array_equal(decoded(weight), expected)
        assert weight.encoding is not None
        assert np.array_equal(weight.encoding.decode(range(2, 9), range(17, 39)), expected[2:9, 17:39])


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"block_size": 24}, "the operator's sizes cannot be"),
        ({"bits": 3}, "the operator's sizes cannot be"),
        ({"K": 80}, "has another shape"),
        ({"N": 11}, "has another shape"),
        ({"weight_prepacked": 1}, "is packed for one kind of GPU"),
    ],
)
def test_what_does_not_fit_is_said(numbers: dict[str, int], reason: str, tmp_path: Path) -> None:
    tensors, _ = packed(4, 16, 40, False, "packed")
    path = saved(tmp_path / "m.onnx", tensors, {"K": 40, "N": 12, "bits": 4, "block_size": 16, **numbers})
    with open_checkpoint(path) as checkpoint:
        assert reason in weights_of(checkpoint)["a.q_proj.weight"].why
        bare = replace(checkpoint, configs=())
        assert "the operator's sizes cannot be" in weights_of(bare)["a.q_proj.weight"].why
