"""What a graph adds to the product of a weight, shares between layers or mixes between heads, against its numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import qkvinspect
from qkvinspect.computed_rows import ComputedAttention, ComputedSum
from qkvinspect.formats import open_checkpoint
from tests.formats.evaluated import WIDTH, give_what_the_graph_gives, model_of

RANK = 3
DOMAIN = {"domain": "com.microsoft"}


def numbers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def constant(name: str, value: Any) -> Any:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))


def product(given: str, module: str, out: str, op: str = "MatMul", **options: Any) -> Any:
    return helper.make_node(op, [given, f"w/{module}"], [out], name=f"/h.0/attn/{module}/MatMul", **options)


def weighed(layer: int, q: str = "q", k: str = "k", v: str = "v") -> list[Any]:
    """One head of attention."""
    at = str(layer)
    return [
        helper.make_node("Transpose", [k], [f"kt{at}"], perm=(0, 2, 1)),
        helper.make_node("MatMul", [q, f"kt{at}"], [f"s{at}"]),
        helper.make_node("Softmax", [f"s{at}"], [f"p{at}"], axis=-1),
        helper.make_node("MatMul", [f"p{at}", v], [f"o{at}"]),
    ]


def stored_of(nodes: list[Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The weights of the products, under names that exporters make up."""
    names = {f"w/{module}": f"onnx::MatMul_{at}" for at, module in enumerate(shapes)}
    for node in nodes:
        for at, name in enumerate(node.input):
            node.input[at] = names.get(name, name)
    return {names[f"w/{module}"]: numbers(at, *shape) for at, (module, shape) in enumerate(shapes.items())}


SHAPES: dict[str, tuple[int, ...]] = {
    "q_proj/base_layer": (WIDTH, WIDTH),
    "k_proj": (WIDTH, WIDTH),
    "v_proj": (WIDTH, WIDTH),
    "q_proj/lora_A/default": (WIDTH, RANK),
    "q_proj/lora_B/default": (RANK, WIDTH),
}


def adapted(way: str) -> list[Any]:
    """Q with an adapter, of which the number stands where exporters and optimisers put it."""
    nodes = [constant("scale", np.float32(-1.75)), product("x", "k_proj", "k"), product("x", "v_proj", "v")]
    down_of = {"copied": "x1", "bottleneck": "m", "other": "x2"}.get(way, "x")
    if way == "copied":
        nodes.append(helper.make_node("Identity", ["x"], ["x1"]))
    if way == "other":
        nodes.append(helper.make_node("Neg", ["x"], ["x2"]))
    nodes.append(product("x", "q_proj/base_layer", "m"))
    fused = {"op": "FusedMatMul", "alpha": -1.75, **DOMAIN} if way == "fused" else {}
    if way == "between":
        nodes += [product(down_of, "q_proj/lora_A/default", "a0"), helper.make_node("Div", ["a0", "scale"], ["a"])]
    else:
        nodes.append(product(down_of, "q_proj/lora_A/default", "a"))
    nodes.append(product("a", "q_proj/lora_B/default", "b", **fused))
    scaled = way not in ("fused", "between", "unscaled")
    if scaled:
        nodes.append(helper.make_node("Mul", ["scale", "b"] if way == "before" else ["b", "scale"], ["c"]))
    added = "c" if scaled else "b"
    nodes.append(helper.make_node("Add", [added, "m"] if way == "before" else ["m", added], ["q"]))
    return nodes


@pytest.mark.parametrize("way", ["after", "before", "between", "fused", "unscaled", "copied"])
def test_an_adapter_is_part_of_the_weight(way: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    nodes = [*adapted(way), *weighed(0)]
    path = tmp_path / "m.onnx"
    model = model_of(nodes, stored_of(nodes, SHAPES), path)
    give_what_the_graph_gives(model, path, "h.0.attn", {part: [part] for part in "qkv"}, "x")
    shown = run("show", path)
    assert shown.code == 0
    assert "read with what the graph adds as an adapter does" in shown.out
    assert run("check", path).code == run("explain", path).code == 0


def test_two_adapters_are_both_added(tmp_path: Path) -> None:
    nodes = adapted("after")
    nodes[-1].output[0] = "q0"
    nodes += [product("x", "q_proj/lora_A/second", "a2"), product("a2", "q_proj/lora_B/second", "q1")]
    nodes += [helper.make_node("Add", ["q0", "q1"], ["q"]), *weighed(0)]
    shapes = SHAPES | {"q_proj/lora_A/second": (WIDTH, 2), "q_proj/lora_B/second": (2, WIDTH)}
    path = tmp_path / "m.onnx"
    model = model_of(nodes, stored_of(nodes, shapes), path)
    give_what_the_graph_gives(model, path, "h.0.attn", {part: [part] for part in "qkv"}, "x")


@pytest.mark.parametrize("way", ["bottleneck", "other", "twice", "wide", "given"])
def test_other_sums_are_none(way: str, tmp_path: Path) -> None:
    """A product of another input, of as high a rank, by a number that is given, or beside one that is used again."""
    nodes = adapted(way)
    shapes = dict(SHAPES)
    inputs = ["x"]
    if way == "twice":
        nodes.append(helper.make_node("MatMul", ["m", "k"], ["again"]))
    elif way == "wide":
        shapes |= {"q_proj/lora_A/default": (WIDTH, WIDTH), "q_proj/lora_B/default": (WIDTH, WIDTH)}
    elif way == "given":
        inputs, nodes = ["x", "scale"], nodes[1:]
    path = tmp_path / "m.onnx"
    model_of([*nodes, *weighed(0)], stored_of(nodes, shapes), path, inputs)
    with open_checkpoint(path) as checkpoint:
        assert not [one for one in checkpoint.computed if isinstance(one, ComputedSum | ComputedAttention)]


def test_layers_that_share_a_weight_are_each_found(tmp_path: Path) -> None:
    """K and V of two layers in one initialiser: what is stored once has the name of either."""
    shapes = {"q0": (WIDTH, WIDTH), "q1": (WIDTH, WIDTH), "kv": (WIDTH, 2 * WIDTH)}
    nodes: list[Any] = []
    for at in range(2):
        nodes += [
            helper.make_node("MatMul", ["x", f"w/q{at}"], [f"q{at}"], name=f"/h.{at}/attn/q_proj/MatMul"),
            helper.make_node("MatMul", ["x", "w/kv"], [f"kv{at}"], name=f"/h.{at}/attn/kv_proj/MatMul"),
            helper.make_node("Split", [f"kv{at}"], [f"k{at}", f"v{at}"], axis=-1, num_outputs=2),
            *weighed(at, f"q{at}", f"k{at}", f"v{at}"),
        ]
    path = tmp_path / "m.onnx"
    model = model_of(nodes, stored_of(nodes, shapes), path)
    for at in range(2):
        values = {part: [f"{part}{at}"] for part in "qkv"}
        give_what_the_graph_gives(model, path, f"h.{at}.attn", values, "x")


def test_keys_that_were_learned_stand_beside_the_projections(tmp_path: Path) -> None:
    shapes = dict.fromkeys(("q_proj", "k_proj", "v_proj"), (WIDTH, WIDTH))
    nodes = [product("x", f"{part}_proj", part) for part in "qkv"]
    for part in "kv":
        nodes.append(helper.make_node("Concat", [f"learned_{part}", part], [f"all_{part}"], axis=1))
    nodes += weighed(0, "q", "all_k", "all_v")
    stored = stored_of(nodes, shapes) | {f"learned_{part}": numbers(7, 2, 1, WIDTH) for part in "kv"}
    path = tmp_path / "m.onnx"
    model = model_of(nodes, stored, path)
    give_what_the_graph_gives(model, path, "h.0.attn", {part: [part] for part in "qkv"}, "x")


def test_heads_that_talk_to_each_other_stay_in_their_order(tmp_path: Path) -> None:
    """Scores that a matrix mixes between heads before the softmax and after it."""
    heads, dim = 4, WIDTH // 4
    nodes = [constant("shape", [2, 5, heads, dim])]
    for part in "qkv":
        order = (0, 2, 3, 1) if part == "k" else (0, 2, 1, 3)
        nodes += [
            product("x", f"{part}_proj", part),
            helper.make_node("Reshape", [part, "shape"], [f"{part}1"]),
            helper.make_node("Transpose", [f"{part}1"], [f"{part}2"], perm=order),
        ]
        nodes.append(helper.make_node("Split", [part], [f"{part}h{head}" for head in range(heads)], axis=-1))
    nodes.append(helper.make_node("MatMul", ["q2", "k2"], ["s0"]))
    for at, name in enumerate(("before", "after")):
        nodes += [
            helper.make_node("Transpose", [f"s{at}"], [f"t{at}"], perm=(0, 2, 3, 1)),
            helper.make_node("MatMul", [f"t{at}", f"w/{name}"], [f"u{at}"], name=f"/h.0/attn/{name}/MatMul"),
            helper.make_node("Transpose", [f"u{at}"], [f"x{at}"], perm=(0, 3, 1, 2)),
        ]
        nodes.append(helper.make_node("Softmax" if at == 0 else "Identity", [f"x{at}"], [f"s{at + 1}"]))
    nodes.append(helper.make_node("MatMul", ["s2", "v2"], ["o"]))
    shapes = {f"{part}_proj": (WIDTH, WIDTH) for part in "qkv"} | {"before": (heads, heads), "after": (heads, heads)}
    path = tmp_path / "m.onnx"
    model = model_of(nodes, stored_of(nodes, shapes), path)
    values = {part: [f"{part}h{head}" for head in range(heads)] for part in "qkv"}
    give_what_the_graph_gives(model, path, "h.0.attn", values, "x")


def test_where_the_graph_is_left_is_said(tmp_path: Path) -> None:
    shapes = dict.fromkeys(("q_proj", "k_proj", "v_proj"), (WIDTH, WIDTH))
    nodes = [product("x", f"{part}_proj", part) for part in "qkv"]
    nodes.append(helper.make_node("CumSum", ["q", "q"], ["odd"], name="/h.0/attn/CumSum"))
    nodes += weighed(0, "odd")
    path = tmp_path / "m.onnx"
    model_of(nodes, stored_of(nodes, shapes), path)
    found = qkvinspect.inspect(str(path)).findings
    (said,) = (finding.message for finding in found if finding.code == "rows-from-graph")
    assert "(h.0.attn.q_proj.weight is followed as far as CumSum in h.0.attn): what is Q" in said


@pytest.mark.parametrize("way", ["right", "left", "einsum"])
def test_a_matrix_over_tokens_is_no_projection(way: str, tmp_path: Path) -> None:
    """As Linformer has it: K and V of fewer tokens, each a mixture of the tokens, are the same rows."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("one", "two", "three"), (WIDTH, WIDTH))
    nodes = [product("x", module, part) for module, part in zip(shapes, "qkv", strict=True)]
    for part in "kv":
        if way == "right":
            nodes += [
                helper.make_node("Transpose", [part], [f"{part}1"], perm=(0, 2, 1)),
                helper.make_node("MatMul", [f"{part}1", "w/few"], [f"{part}2"]),
                helper.make_node("Transpose", [f"{part}2"], [f"few_{part}"], perm=(0, 2, 1)),
            ]
        elif way == "left":
            nodes.append(helper.make_node("MatMul", ["w/few", part], [f"few_{part}"]))
        else:
            nodes.append(helper.make_node("Einsum", [part, "w/few"], [f"few_{part}"], equation="bnd,nk->bkd"))
    nodes += weighed(0, "q", "few_k", "few_v")
    shapes["few"] = (3, 5) if way == "left" else (5, 3)
    path = tmp_path / "m.onnx"
    model = model_of(nodes, stored_of(nodes, shapes), path)
    with open_checkpoint(path) as checkpoint:
        found = [one for one in checkpoint.computed if isinstance(one, ComputedAttention)]
    if way == "einsum":
        assert not found
    else:
        give_what_the_graph_gives(model, path, "h.0.attn", {part: [part] for part in "qkv"}, "x")
