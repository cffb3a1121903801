"""Rows and biases of ONNX files give the numbers that the onnx package computes of the same graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import qkvinspect
from tests.formats.evaluated import WIDTH, give_what_the_graph_gives, model_of

HEADS, DIM = 4, 6


def numbers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def attention(q: str, k: str, v: str, name: str = "") -> list[Any]:
    """Scores, their softmax, and the sum of V, of values [..., tokens, width]."""
    return [
        helper.make_node("Transpose", [k], [f"turned{name}"], perm=(0, 2, 1)),
        helper.make_node("MatMul", [q, f"turned{name}"], [f"scores{name}"]),
        helper.make_node("Softmax", [f"scores{name}"], [f"weights{name}"], axis=-1),
        helper.make_node("MatMul", [f"weights{name}", v], [f"out{name}"]),
    ]


@pytest.mark.parametrize("parts", [("query", "key", "value"), ("key", "query", "value")])
def test_a_matrix_for_each_head(parts: tuple[str, str, str], tmp_path: Path, run: Callable[..., Any]) -> None:
    """Heads in a list, of which the graph makes an attention each; with Q and K under each other's name too."""
    nodes: list[Any] = []
    stored: dict[str, Any] = {"p": numbers(99, WIDTH, WIDTH)}
    for head in range(HEADS):
        for number, part in enumerate(parts):
            stored[f"m{head}{part}"] = numbers(head * 3 + number, WIDTH, DIM)
            path = f"/blocks.0/sa/heads.{head}/{part}/MatMul"
            nodes.append(helper.make_node("MatMul", ["x", f"m{head}{part}"], [f"{part}{head}"], name=path))
        nodes += attention(*(f"{part}{head}" for part in parts), name=str(head))
    nodes.append(helper.make_node("Concat", [f"out{head}" for head in range(HEADS)], ["joined"], axis=-1))
    nodes.append(helper.make_node("MatMul", ["joined", "p"], ["y"], name="/blocks.0/sa/proj/MatMul"))
    stored = {f"onnx::MatMul_{at}": stored[name] for at, name in enumerate(stored)}
    for node in nodes:
        for at, name in enumerate(node.input):
            names = ["p", *(f"m{head}{part}" for head in range(HEADS) for part in parts)]
            if name in names:
                node.input[at] = f"onnx::MatMul_{names.index(name)}"
    path = tmp_path / "m.onnx"
    model = model_of(nodes, stored, path)
    values = {part: [f"{name}{head}" for head in range(HEADS)] for part, name in zip("qkv", parts, strict=True)}
    give_what_the_graph_gives(model, path, "blocks.0.sa", values, "x")
    for command in ("show", "check", "explain"):
        assert run(command, path).code == 0
    assert run("diff", path, path).code == 0


def fused(way: str) -> list[Any]:
    """One head as onnxruntime's optimiser leaves it: what turned an operand, or scaled it, is part of the product."""
    domain = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node("MatMul", ["x", f"onnx::MatMul_{at}"], [part], name=f"/h.0/attn/{name}/MatMul/MatMulAddFusion")
        for at, (part, name) in enumerate(zip("qkv", ("key", "query", "value"), strict=True))
    ]
    if way == "weight":  # [out, in]
        nodes[0] = helper.make_node(
            "FusedMatMul", ["x", "onnx::MatMul_0"], ["q"], transB=1, name=nodes[0].name, **domain
        )
    first, second, options = "q", "k", {"transB": 1, "alpha": 0.4}
    if way == "tokens first":
        for part in "qkv":
            nodes.append(helper.make_node("Transpose", [part], [f"{part}1"], perm=(1, 0, 2)))
        first, second, options = "q1", "k1", {"transB": 1, "transBatchA": 1, "transBatchB": 1}
    elif way == "keys first":
        first, second = "k", "q"
    nodes.append(helper.make_node("FusedMatMul", [first, second], ["scores"], **options, **domain))
    nodes.append(helper.make_node("Softmax", ["scores"], ["p"], axis=-2 if way == "keys first" else -1))
    options = {"tokens first": {"transBatchB": 1}, "keys first": {"transA": 1}}.get(way, {"alpha": 2.0})
    values = "v1" if way == "tokens first" else "v"
    return [*nodes, helper.make_node("FusedMatMul", ["p", values], ["o"], **options, **domain)]


@pytest.mark.parametrize("way", ["plain", "weight", "tokens first", "keys first"])
def test_products_of_onnxruntime_that_turn_what_they_take(way: str, tmp_path: Path) -> None:
    stored = {f"onnx::MatMul_{at}": numbers(at, WIDTH, WIDTH) for at in range(3)}
    model = model_of(fused(way), stored, tmp_path / "m.onnx")
    values = {part: [part] for part in "qkv"}
    give_what_the_graph_gives(model, tmp_path / "m.onnx", "h.0.attn", values, "x")


@pytest.mark.parametrize("shared", [False, True])
def test_biases_that_have_no_name_of_their_own(shared: bool, tmp_path: Path) -> None:
    """A bias that the exporter computed, as of BEiT's Q and V, and one of another module that is stored once."""
    bias = "h.1.attn.qkv.bias" if shared else "onnx::Add_9"
    stored = {"onnx::MatMul_1": numbers(1, WIDTH, 3 * WIDTH), bias: numbers(2, 3 * WIDTH)}
    stored |= {"onnx::MatMul_3": numbers(3, WIDTH, WIDTH), "h.0.attn.proj.bias": numbers(4, WIDTH)}
    scope = "/h.0/attn/qkv" if shared else "/h.0/attn"
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["m"], name=f"{scope}/MatMul"),
        helper.make_node("Add", [bias, "m"], ["y"], name=f"{scope}/Add"),
        helper.make_node("Split", ["y"], ["q", "k", "v"], axis=-1, num_outputs=3),
        *attention("q", "k", "v"),
        helper.make_node("MatMul", ["out", "onnx::MatMul_3"], ["p"], name="/h.0/attn/proj/MatMul"),
        helper.make_node("Add", ["p", "h.0.attn.proj.bias"], ["z"], name="/h.0/attn/proj/Add"),
    ]
    model = model_of(nodes, stored, tmp_path / "m.onnx")
    give_what_the_graph_gives(model, tmp_path / "m.onnx", "h.0.attn", {part: [part] for part in "qkv"}, "x")
    with qkvinspect.open(str(tmp_path / "m.onnx")) as checkpoint:
        layer = checkpoint.layer("h.0.attn")
        assert np.array_equal(np.asarray(layer.out), stored["onnx::MatMul_3"].T)
        assert layer.q.bias is not None


@pytest.mark.parametrize("scope", ["/h.0/attn", ""])
def test_weights_that_nothing_names(scope: str, tmp_path: Path) -> None:
    """Parts of one parameter, as exporters cut it beforehand, and a file whose nodes have no paths."""
    stored: dict[str, Any] = {}
    nodes: list[Any] = []
    for at, part in enumerate("kvq"):
        stored |= {f"onnx::MatMul_{at}": numbers(at, WIDTH, WIDTH), f"onnx::Add_{at}": numbers(9 + at, WIDTH)}
        name = f"{scope}/MatMul_{at}" if scope else f"node_{at}"
        nodes.append(helper.make_node("MatMul", ["x", f"onnx::MatMul_{at}"], [f"m{part}"], name=name))
        nodes.append(helper.make_node("Add", [f"onnx::Add_{at}", f"m{part}"], [part]))
    model = model_of([*nodes, *attention("q", "k", "v")], stored, tmp_path / "m.onnx")
    layer = "h.0.attn" if scope else "attention.0"
    give_what_the_graph_gives(model, tmp_path / "m.onnx", layer, {part: [part] for part in "qkv"}, "x")


@pytest.mark.parametrize("head_first", [True, False])
def test_heads_that_are_folded_into_tokens(head_first: bool, tmp_path: Path) -> None:
    """As in GPT-BigCode, where all heads share one K: the tokens of every head are rows of one matrix of scores."""
    stored = {
        "a.q.weight": numbers(1, WIDTH, WIDTH),
        "a.k.weight": numbers(2, DIM, WIDTH),
        "a.v.weight": numbers(3, DIM, WIDTH),
        "shape": np.array([2, 5, HEADS, DIM]),
        **{"folded": np.array([2, -1, DIM])} | {f"at{head}": np.array(head) for head in range(HEADS)},
    }
    nodes: list[Any] = []
    for part in "qkv":
        nodes.append(helper.make_node("Transpose", [f"a.{part}.weight"], [f"t{part}"]))
        nodes.append(helper.make_node("MatMul", ["x", f"t{part}"], [part]))
    nodes.append(helper.make_node("Reshape", ["q", "shape"], ["q4"]))
    nodes += [helper.make_node("Gather", ["q4", f"at{head}"], [f"q{head}"], axis=2) for head in range(HEADS)]
    nodes.append(helper.make_node("Transpose", ["q4"], ["turned4"], perm=(0, 2, 1, 3)))
    nodes.append(helper.make_node("Reshape", ["turned4" if head_first else "q4", "folded"], ["flat"]))
    path = tmp_path / "m.onnx"
    model = model_of([*nodes, *attention("flat", "k", "v")], stored, path)
    values = {"q": [f"q{head}" for head in range(HEADS)], "k": ["k"] * HEADS, "v": ["v"] * HEADS}
    give_what_the_graph_gives(model, path, "a", values, "x")


@pytest.mark.parametrize("gap", [0, 2])
def test_a_matrix_that_is_called_as_nothing_known(gap: int, tmp_path: Path, run: Callable[..., Any]) -> None:
    """Found by the graph alone, [in, out]; with rows between the parts no packing says how it lies: it is not split."""
    starts = {part: gap + number * (WIDTH + gap) for number, part in enumerate("qkv")}
    stored = {"a.b.W": numbers(1, WIDTH, 3 * (WIDTH + gap) + gap), "shape": np.array([2, 5, HEADS, DIM])}
    stored |= {"last": np.array([2])} | {f"at{head}": np.array(head) for head in range(HEADS)}
    nodes = [helper.make_node("MatMul", ["x", "a.b.W"], ["y"])]
    for part, start in starts.items():
        stored |= {f"from{part}": np.array([start]), f"to{part}": np.array([start + WIDTH])}
        nodes.append(helper.make_node("Slice", ["y", f"from{part}", f"to{part}", "last"], [part]))
        nodes.append(helper.make_node("Reshape", [part, "shape"], [f"{part}4"]))
        nodes.append(helper.make_node("Transpose", [f"{part}4"], [f"{part}h"], perm=(0, 2, 1, 3)))
        nodes += [
            helper.make_node("Gather", [f"{part}4", f"at{head}"], [f"{part}{head}"], axis=2) for head in range(HEADS)
        ]
    nodes.append(helper.make_node("Transpose", ["kh"], ["kt"], perm=(0, 1, 3, 2)))
    nodes += [helper.make_node("MatMul", ["qh", "kt"], ["s"]), helper.make_node("Softmax", ["s"], ["p"], axis=-1)]
    path = tmp_path / "m.onnx"
    model = model_of([*nodes, helper.make_node("MatMul", ["p", "vh"], ["out"])], stored, path)
    values = {part: [f"{part}{head}" for head in range(HEADS)] for part in "qkv"}
    if not gap:
        give_what_the_graph_gives(model, path, "a.b", values, "x")
    found = run("show", path, "-f", "json").json()
    (one,) = found["attentions"]
    assert (one["layout"] == "graph") is not bool(gap)
    said = [finding["message"] for finding in found["findings"] if finding["code"] == "rows-from-graph"]
    assert any("which is no packing that is known: it is not split" in message for message in said) is bool(gap)
    for command in ("explain", "check", "analyze"):
        assert run(command, path).code == 0


def test_what_is_not_read_is_named(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Sparse initialisers, and operators that the file defines itself."""
    node = helper.make_node("MatMul", ["x", "sparse"], ["y"])
    model = model_of([node, helper.make_node("Own", ["y"], ["z"], domain="own")], {}, tmp_path / "m.onnx")
    values = helper.make_tensor("sparse", 1, [2], [1.0, 2.0])
    places = helper.make_tensor("places", 7, [2], [0, 5])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [WIDTH, WIDTH]))
    inner = [helper.make_node("Identity", ["a"], ["b"])]
    model.functions.append(helper.make_function("own", "Own", ["a"], ["b"], inner, [helper.make_opsetid("", 19)]))
    onnx.save(model, tmp_path / "m.onnx")
    said = " ".join(one["message"] for one in run("show", tmp_path / "m.onnx", "-f", "json").json()["findings"])
    assert "1 sparse initialiser left out, of which only the name is read: sparse" in said
    assert "1 node of functions that the file defines (Own): these are not looked into" in said


def test_an_unnamed_weight_behind_a_transpose(tmp_path: Path) -> None:
    stored: dict[str, Any] = {"shape": np.array([2, 5, HEADS, DIM])}
    nodes: list[Any] = []
    for number, part in enumerate("qkv"):
        stored[f"onnx::T_{number}"] = numbers(number, WIDTH, WIDTH)
        nodes.append(helper.make_node("Transpose", [f"onnx::T_{number}"], [f"t{part}"]))
        nodes.append(helper.make_node("MatMul", ["x", f"t{part}"], [part], name=f"/a/{part}_proj/MatMul"))
    path = tmp_path / "m.onnx"
    model = model_of([*nodes, *attention("q", "k", "v")], stored, path)
    give_what_the_graph_gives(model, path, "a", {part: [part] for part in "qkv"}, "x")
