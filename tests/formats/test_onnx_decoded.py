"""Codes that a graph decodes before it cuts, turns or adds them are the numbers that the onnx package computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.formats.evaluated import BATCH, TOKENS, WIDTH, give_what_the_graph_gives, model_of
from tests.formats.test_onnx_evaluated import attention

PLACE = "blocks.0.attn"
HEADS, DIM = 4, 6
SPLIT = np.array([WIDTH] * 3)


def quantised(name: str, rows: int, shape: tuple[int, ...], dtype: Any, many: bool) -> tuple[dict[str, Any], Any]:
    """Codes as onnxruntime's quantiser calls them, with one scale or one for each row, and what decodes them."""
    rng = np.random.default_rng(rows + len(name))
    codes = rng.integers(-100, 100, shape).astype(dtype)
    size = (rows,) if many else ()
    zeros = np.zeros(size, dtype) if dtype is np.int32 else rng.integers(-9, 9, size).astype(dtype)
    scales = (0.01 + rng.random(size) / 50).astype(np.float32)
    held = {f"{name}_quantized": codes, f"{name}_scale": scales, f"{name}_zero_point": zeros}
    decode = helper.make_node("DequantizeLinear", [*held], [f"{name}_DequantizeLinear_Output"], axis=0)
    return held, decode


def by_heads(values: dict[str, str]) -> list[Any]:
    """[batch, tokens, width] to [batch, heads, tokens, width of a head], and attention of these."""
    nodes: list[Any] = []
    for part, name in values.items():
        nodes.append(helper.make_node("Reshape", [name, "shape"], [f"{part}4"]))
        nodes.append(helper.make_node("Transpose", [f"{part}4"], [f"{part}h"], perm=(0, 2, 1, 3)))
        for head in range(HEADS):
            nodes.append(helper.make_node("Gather", [f"{part}4", f"at{head}"], [f"{part}.{head}"], axis=2))
    nodes.append(helper.make_node("Transpose", ["kh"], ["kt"], perm=(0, 1, 3, 2)))
    nodes.append(helper.make_node("MatMul", ["qh", "kt"], ["scores"]))
    nodes.append(helper.make_node("Softmax", ["scores"], ["weights"], axis=-1))
    return [*nodes, helper.make_node("MatMul", ["weights", "vh"], ["out"])]


SHAPES = {"shape": np.array([BATCH, TOKENS, HEADS, DIM])} | {f"at{head}": np.array(head) for head in range(HEADS)}


def projections_are_read(nodes: list[Any], stored: dict[str, Any], place: str, folder: Path) -> Path:
    """Write a graph whose nodes make ``yq``, ``yk`` and ``yv``, and compare what is read of it with what it gives."""
    path = folder / "m.onnx"
    model = model_of([*nodes, *by_heads({part: f"y{part}" for part in "qkv"})], stored, path)
    parts = {part: [f"{part}.{head}" for head in range(HEADS)] for part in "qkv"}
    give_what_the_graph_gives(model, path, place, parts, "x")
    return path


@pytest.mark.parametrize("cut", ["Split", "Slice"])
@pytest.mark.parametrize("many", [True, False], ids=["a scale for each row", "one scale"])
@pytest.mark.parametrize("dtype", [np.int8, np.int32], ids=["int8 biases", "int32 biases"])
def test_a_weight_that_is_cut_after_it_is_decoded(
    cut: str, many: bool, dtype: Any, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """As nn.MultiheadAttention of other inputs for keys, quantised: weight and biases are decoded, then cut."""
    weight, decode_weight = quantised(f"{PLACE}.in_proj_weight", 3 * WIDTH, (3 * WIDTH, WIDTH), np.int8, many)
    bias, decode_bias = quantised(f"{PLACE}.in_proj_bias", 3 * WIDTH, (3 * WIDTH,), dtype, many)
    nodes, stored = [decode_weight, decode_bias], {**weight, **bias, **SHAPES, "sizes": SPLIT, "first": np.array([0])}
    for kind, whole in (("w", decode_weight.output[0]), ("b", decode_bias.output[0])):
        if cut == "Split":
            nodes.append(helper.make_node("Split", [whole, "sizes"], [f"{kind}{part}" for part in "qkv"], axis=0))
        for number, part in enumerate("qkv" if cut == "Slice" else ""):
            stored |= {f"from{part}": np.array([number * WIDTH]), f"to{part}": np.array([(number + 1) * WIDTH])}
            nodes.append(helper.make_node("Slice", [whole, f"from{part}", f"to{part}", "first"], [f"{kind}{part}"]))
    for part in "qkv":
        nodes.append(helper.make_node("Transpose", [f"w{part}"], [f"t{part}"]))
        nodes.append(helper.make_node("MatMul", ["x", f"t{part}"], [f"m{part}"]))
        nodes.append(helper.make_node("Add", [f"m{part}", f"b{part}"], [f"y{part}"]))
    path = projections_are_read(nodes, stored, PLACE, tmp_path)
    told = run("explain", path)
    assert told.code == 0
    assert "Biases   Q in in_proj_bias[0:24], K in in_proj_bias[24:48], V in in_proj_bias[48:72]." in told.out


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
@pytest.mark.parametrize("many", [True, False])
def test_biases_of_products_are_decoded(dtype: Any, many: bool, tmp_path: Path) -> None:
    stored, nodes = dict(SHAPES), list[Any]()
    for part in "qkv":
        held, decode = quantised(f"{PLACE}.{part}_proj.bias", WIDTH, (WIDTH,), dtype, many)
        matrix = np.random.default_rng(7).standard_normal((WIDTH, WIDTH), np.float32)
        stored |= {**held, f"onnx::MatMul_{ord(part)}": matrix}
        name = f"/blocks.0/attn/{part}_proj/MatMul"
        nodes += [decode, helper.make_node("MatMul", ["x", f"onnx::MatMul_{ord(part)}"], [f"m{part}"], name=name)]
        nodes.append(helper.make_node("Add", [decode.output[0], f"m{part}"], [f"y{part}"]))
    projections_are_read(nodes, stored, PLACE, tmp_path)


def test_codes_under_made_up_names_are_no_numbers(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Where nothing says what the codes were made of, they are decoded under the name that they have."""
    stored = {"packed": np.ones((3 * WIDTH, WIDTH), np.int8), "step": np.float32(0.5), "sizes": SPLIT}
    nodes = [helper.make_node("DequantizeLinear", ["packed", "step"], ["/decoded"])]
    nodes.append(helper.make_node("Split", ["/decoded", "sizes"], ["wq", "wk", "wv"], axis=0))
    for part in "qkv":
        nodes.append(helper.make_node("Transpose", [f"w{part}"], [f"t{part}"]))
        nodes.append(helper.make_node("MatMul", ["x", f"t{part}"], [part]))
    path, out = tmp_path / "m.onnx", tmp_path / "out.safetensors"
    model_of([*nodes, *attention("q", "k", "v")], stored, path)
    found = run("export", "--split", path, "-o", out, "--dequantize", "float32")
    assert found.code == 0, found.err
    from safetensors.numpy import load_file

    written = load_file(out)
    assert len(written) == 3
    assert all(np.array_equal(one, np.full((WIDTH, WIDTH), np.float32(0.5))) for one in written.values())


@pytest.mark.parametrize("product", ["MatMul", "Gemm"])
@pytest.mark.parametrize(("packed", "place"), [("blocks.0.attn.in_proj_bias", PLACE), ("b", "attention.0")])
@pytest.mark.parametrize("told", ["lengths", "thirds"])
def test_biases_that_are_cut_of_one_vector(product: str, packed: str, place: str, told: str, tmp_path: Path) -> None:
    """As dynamo has nn.MultiheadAttention of other inputs for keys: its weights are apart, their biases together."""
    rng, stored = np.random.default_rng(3), {**SHAPES, "lengths": SPLIT, "flat": np.array([-1, WIDTH])}
    stored["shape3"] = np.array([BATCH, TOKENS, WIDTH])
    stored[packed] = rng.standard_normal(3 * WIDTH).astype(np.float32)
    more = {"num_outputs": 3} if told == "thirds" else {}
    inputs = [packed] if told == "thirds" else [packed, "lengths"]
    nodes = [helper.make_node("Split", inputs, ["bq", "bk", "bv"], axis=0, **more)]
    nodes.append(helper.make_node("Reshape", ["x", "flat"], ["x2"]))
    for number, part in enumerate("qkv"):
        stored[f"val_{number}"] = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
        if product == "Gemm":
            nodes.append(helper.make_node("Gemm", ["x2", f"val_{number}", f"b{part}"], [f"m{part}"]))
            nodes.append(helper.make_node("Reshape", [f"m{part}", "shape3"], [f"y{part}"]))
        else:
            nodes.append(helper.make_node("MatMul", ["x", f"val_{number}"], [f"m{part}"]))
            nodes.append(helper.make_node("Add", [f"m{part}", f"b{part}"], [f"y{part}"]))
    projections_are_read(nodes, stored, place, tmp_path)
