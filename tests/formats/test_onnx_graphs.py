"""The rows of ONNX files are those that reach attention in the modules that they were exported from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from safetensors.torch import load_file

from qkvinspect.computed_rows import ComputedAttention
from qkvinspect.explain.snippet import python
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect
from tests.hostile.bounds import bounded_memory, no_hang
from tests.long import long
from tests.some import crossed, every_value

GRAPHS = Path(__file__).parent / "onnx_graphs"
NAMES = sorted(path.stem for path in GRAPHS.glob("*.onnx"))
USUAL = {"FewKeys-softmax", "Levit-timm", "TwinsLocal-timm", "TwinsGlobal-timm", "Coat-timm"}
"""Modules whose names say what the graph says, but for the number of heads."""

NO_PACKING = {
    "KeysBackwards-softmax": "no packing that is known",
    "TiledKeys-softmax": "another order than one after the other (4 heads over 2), which cannot be expressed",
}

UNSPLIT = ("KeysBackwards-softmax-dynamo",)

Modules = list[dict[str, tuple[str, list[list[int]]]]]


def truth(name: str) -> Modules:
    """What the modules' own forward says (onnx_graphs/make.py)."""
    found = json.loads((GRAPHS / f"{name.rpartition('-')[0]}.json").read_text())
    return [{part: (f"{weight}.weight", heads) for part, (weight, heads) in module.items()} for module in found]


def test_there_are_many_of_them() -> None:
    assert len(NAMES) >= 20
    assert {name.rpartition("-")[0] for name in NAMES} == {path.stem for path in GRAPHS.glob("*.json")}


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_followed_to_attention_and_its_rows_are_reported(name: str) -> None:
    with open_checkpoint(GRAPHS / f"{name}.onnx") as checkpoint:
        computed = [one for one in checkpoint.computed if isinstance(one, ComputedAttention)]
        rows = [
            {part: (one.weight, [[*head] for head in one.heads]) for part, one in module.parts.items()}
            for module in computed
        ]
        report = inspect(checkpoint)
    assert rows == truth(name)
    said = [finding.message for finding in report.findings if finding.code == "rows-from-graph"]
    assert {finding.code for finding in report.findings} <= {"names-from-graph", "rows-from-graph"}
    case = name.rpartition("-")[0]
    if case in NO_PACKING:
        assert all(not one.parts for one in report.attentions)
        assert all(not one.candidates and "not split" in repr(one) for one in report.attentions)
        assert all(NO_PACKING[case] in message for message in said)
        assert len(said) == 2
        return
    found = [
        {part.name: (part.weight.name, [[*head] for head in part.heads]) for part in one.parts}
        for one in report.attentions
    ]
    assert found == truth(name)
    assert all(one.layout_from == "graph" for one in report.attentions)
    # dynamo computes what LeViT makes of the tensor that tells its heads, and drops that
    assert len(said) == (0 if case in USUAL and name != "Levit-timm-dynamo" else 2)


def weights_of(path: Path) -> dict[str, Any]:
    """[out, in] of each matrix, called after the bias that is added to its product, as the onnx package has it."""
    model = onnx.load(path)
    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    added = {name: node.input for node in model.graph.node if node.op_type == "Add" for name in node.input}
    found: dict[str, Any] = {}
    for node in model.graph.node:
        array = arrays.get(node.input[1]) if len(node.input) > 1 else None
        if array is None or node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        beside = [*node.input[2:], *added.get(node.output[0], ())]
        (bias,) = (name for name in beside if name.endswith(".bias"))
        turned = node.op_type == "MatMul" or not any(one.name == "transB" and one.i for one in node.attribute)
        plain = array.reshape(len(array), -1) if node.op_type == "Conv" else array.T if turned else array
        found[f"{bias.removesuffix('bias')}weight"] = plain
    return found


@crossed(
    command=["show", "explain", "check", "analyze"],
    name=["HeadThenPart-softmax-dynamo", "Misnamed-softmax-torchscript", "WidthFirst-softmax-dynamo", *UNSPLIT],
)
def test_every_command_takes_them(command: str, name: str, run: Callable[..., Any]) -> None:
    found = run(command, GRAPHS / f"{name}.onnx")
    assert found.code == 0, found
    assert not found.err


SPLIT = [name for name in NAMES if name.rpartition("-")[0] not in {*NO_PACKING, "Levit-timm"}]


@pytest.mark.parametrize("name", every_value(SPLIT, lambda name: name.rsplit("-", 1)))
def test_what_is_exported_and_the_code_of_explain_are_these_rows(
    name: str, tmp_path: Path, run: Callable[..., Any]
) -> None:
    path, out = GRAPHS / f"{name}.onnx", tmp_path / "parts.safetensors"
    done = run("export", "--split", path, "-o", out, "--verify", "--no-evidence")
    assert done.code == 0, done.err
    written = load_file(out)
    with open_checkpoint(path) as checkpoint:
        attentions = inspect(checkpoint).attentions
        code = [python(attention, checkpoint) for attention in attentions]
    stored = weights_of(path)
    for attention, lines, module in zip(attentions, code, truth(name), strict=True):
        made: dict[str, Any] = {}
        exec("\n".join(lines), made)
        for part, (weight, heads) in module.items():
            rows = stored[weight][[row for head in heads for row in head]]
            assert np.array_equal(written[f"{attention.layer}.{part}_proj.weight"].numpy(), rows)
            assert np.array_equal(made[part].numpy().reshape(rows.shape), rows)


def test_what_was_asked_for_stays(run: Callable[..., Any]) -> None:
    path = GRAPHS / "HeadThenPart-softmax-torchscript.onnx"
    found = json.loads(run("show", path, "--layout", "timm-vit", "--heads", "4", "-f", "json").out)
    assert {one["layout"] for one in found["attentions"]} == {"timm-vit"}
    assert {one["code"] for one in found["findings"]} >= {"rows-from-graph"}


def linear_attention(cut: bool) -> list[Any]:
    """A packed projection that is cut per head, or in blocks, into what meets no softmax."""
    shape, axis = ([2, 5, 4, 3, 2], 3) if cut else ([2, 5, 3, 4, 2], 2)
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["y"], name="/blocks.0/attn/qkv/MatMul"),
        helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.array(shape))),
        helper.make_node("Reshape", ["y", "s"], ["r"]),
        helper.make_node("Constant", [], ["ones"], value=numpy_helper.from_array(np.array([1, 1, 1]))),
        helper.make_node("Split", ["r", "ones"], ["q", "k", "v"], axis=axis),
    ]
    nodes += [helper.make_node("Elu", [part], [f"{part}1"]) for part in "qkv"]
    return [*nodes, helper.make_node("Gemm", ["z", "blocks.0.attn.proj.weight"], ["out"], transB=1)]


@pytest.mark.parametrize("cut", [True, False])
def test_a_cut_that_the_name_denies_is_not_split(cut: bool, tmp_path: Path) -> None:
    """Where attention is not found, the graph still says into what the tensor is cut."""
    sizes = {"onnx::MatMul_1": (8, 24), "blocks.0.attn.proj.weight": (8, 8)}
    rng = np.random.default_rng(0)
    stored = [numpy_helper.from_array(rng.random(shape, np.float32), name) for name, shape in sizes.items()]
    graph = helper.make_graph(linear_attention(cut), "g", [], [], stored)
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        report = inspect(checkpoint)
    (attention,) = report.attentions
    (said,) = [finding.message for finding in report.findings if finding.code == "rows-from-graph"]
    assert bool(attention.parts) is not cut
    assert ("into other pieces" in said) is cut
    assert ("was not recognised: what is Q, K and V is what its names say" in said) is not cut


def width_first(weighed: str) -> list[Any]:
    """Q, K and V as [width 6, heads 4], weighed with or without a softmax."""
    given = {"shape": [2, 5, 6, 4], "sizes": [24, 24, 24]}
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value)))
        for name, value in given.items()
    ]
    nodes.append(helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["y"], name="/h.0/attn/qkv/MatMul"))
    nodes.append(helper.make_node("Split", ["y", "sizes"], ["q0", "k0", "v0"], axis=2))
    for part, order in {"q": (0, 3, 1, 2), "k": (0, 3, 2, 1), "v": (0, 3, 1, 2)}.items():
        nodes.append(helper.make_node("Reshape", [f"{part}0", "shape"], [f"{part}1"]))
        nodes.append(helper.make_node("Transpose", [f"{part}1"], [part], perm=order))
    nodes.append(helper.make_node("MatMul", ["q", "k"], ["scores"]))
    nodes.append(helper.make_node(weighed, ["scores"], ["p"]))
    nodes.append(helper.make_node("MatMul", ["p", "v"], ["o"]))
    return [*nodes, helper.make_node("Gemm", ["z", "h.0.attn.proj.weight"], ["out"], transB=1)]


@pytest.mark.parametrize("weighed", ["Relu", "Softmax"])
def test_heads_are_those_of_attention_that_is_known(weighed: str, tmp_path: Path) -> None:
    """The last number of a reshape is the width of a head, or the number of heads: attention alone tells."""
    sizes = {"onnx::MatMul_1": (24, 72), "h.0.attn.proj.weight": (24, 24)}
    rng = np.random.default_rng(0)
    stored = [numpy_helper.from_array(rng.random(shape, np.float32), name) for name, shape in sizes.items()]
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 5, 24])]
    onnx.save(helper.make_model(helper.make_graph(width_first(weighed), "g", given, [], stored)), tmp_path / "m.onnx")
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        report = inspect(checkpoint)
        heads = [len(one.q.heads) for one in checkpoint.computed if isinstance(one, ComputedAttention)]
    (attention,) = report.attentions
    assert heads == ([4] if weighed == "Softmax" else [])
    assert (attention.heads and attention.heads.num_heads) == (4 if weighed == "Softmax" else None)
    assert attention.parts
    assert any("was not recognised" in finding.message for finding in report.findings) is (weighed == "Relu")


def test_what_a_cache_holds_lies_before_the_tokens(tmp_path: Path) -> None:
    """Two kv heads after those of a cache, each repeated for two heads: the shape is taken of what is put together."""
    given = {"q": [2, 5, 4, 6], "kv": [2, 5, 2, 6], "one": [2], "twice": [1, 1, 2, 1, 1], "first": [2, -1], "last": [6]}
    nodes = [
        helper.make_node("Constant", [], [f"c_{name}"], value=numpy_helper.from_array(np.array(value)))
        for name, value in given.items()
    ]
    for part, shape in {"q": "c_q", "k": "c_kv", "v": "c_kv"}.items():
        nodes.append(helper.make_node("MatMul", ["x", f"h.0.attn.{part}_proj.weight"], [part]))
        nodes.append(helper.make_node("Reshape", [part, shape], [f"{part}1"]))
        nodes.append(helper.make_node("Transpose", [f"{part}1"], [f"{part}2"], perm=(0, 2, 1, 3)))
    for part in "kv":
        nodes.append(helper.make_node("Concat", [f"past_{part}", f"{part}2"], [f"{part}3"], axis=2))
        nodes.append(helper.make_node("Unsqueeze", [f"{part}3", "c_one"], [f"{part}4"]))
        nodes.append(helper.make_node("Tile", [f"{part}4", "c_twice"], [f"{part}5"]))
        nodes.append(helper.make_node("Shape", [f"{part}3"], [f"{part}_tokens"], start=2, end=3))
        nodes.append(helper.make_node("Concat", ["c_first", f"{part}_tokens", "c_last"], [f"{part}_shape"], axis=0))
        nodes.append(helper.make_node("Reshape", [f"{part}5", f"{part}_shape"], [f"{part}6"]))
    nodes.append(helper.make_node("Transpose", ["k6"], ["k7"], perm=(0, 1, 3, 2)))
    nodes.append(helper.make_node("MatMul", ["q2", "k7"], ["scores"]))
    nodes.append(helper.make_node("Softmax", ["scores"], ["p"]))
    nodes.append(helper.make_node("MatMul", ["p", "v6"], ["o"]))
    rng = np.random.default_rng(0)
    stored = [
        numpy_helper.from_array(rng.random((24, rows), np.float32), f"h.0.attn.{part}_proj.weight")
        for part, rows in {"q": 24, "k": 12, "v": 12}.items()
    ]
    shapes: dict[str, list[Any]] = {"x": [2, 5, 24], "past_k": [2, 2, "past", 6], "past_v": [2, 2, "past", 6]}
    taken = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", taken, [], stored)), tmp_path / "m.onnx")
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        (one,) = [one for one in checkpoint.computed if isinstance(one, ComputedAttention)]
    assert [[*map(len, part.heads)] for part in one.parts.values()] == [[6] * 4, [6] * 2, [6] * 2]
    assert not one.shared_otherwise


def permuted(kind: str) -> list[Any]:
    """A packed projection whose rows are put in another order before they are cut."""
    order = np.random.default_rng(3).permutation(24)
    product = ["x", "onnx::MatMul_1"]
    if kind == "weight":
        first = [helper.make_node("Gather", ["onnx::MatMul_1", "order"], ["w"], axis=1)]
        product = ["x", "w"]
    elif kind == "gather":
        first = [helper.make_node("Gather", ["y", "order"], ["z"], axis=2)]
    elif kind == "gather_nd":
        first = [
            helper.make_node("Transpose", ["y"], ["t"], perm=[2, 0, 1]),
            helper.make_node("GatherND", ["t", "order"], ["u"]),
            helper.make_node("Transpose", ["u"], ["z"], perm=[1, 2, 0]),
        ]
        order = order[:, None]
    else:
        first = [
            helper.make_node("Split", ["y", "sizes"], ["one", "other"], axis=2),
            helper.make_node("Concat", ["other", "one"], ["z"], axis=2),
        ]
    nodes = [helper.make_node("MatMul", product, ["z" if kind == "weight" else "y"], name="/h.0/attn/qkv/MatMul")]
    nodes = [*first, *nodes] if kind == "weight" else [*nodes, *first]
    given = {"order": order, "sizes": [4, 20], "shape": [2, 5, 3, 4, 2], "ones": [1, 1, 1]}
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value)))
        for name, value in given.items()
    ]
    cut = [
        helper.make_node("Reshape", ["z", "shape"], ["r"]),
        helper.make_node("Split", ["r", "ones"], ["q", "k", "v"], axis=2),
    ]
    return [*constants, *nodes, *cut, helper.make_node("Gemm", ["o", "h.0.attn.proj.weight"], ["out"], transB=1)]


@pytest.mark.parametrize("kind", ["gather", "gather_nd", "concat", "weight"])
def test_rows_in_an_order_that_cannot_be_followed_are_not_split(kind: str, tmp_path: Path) -> None:
    sizes = {"onnx::MatMul_1": (8, 24), "h.0.attn.proj.weight": (8, 8)}
    rng = np.random.default_rng(0)
    stored = [numpy_helper.from_array(rng.random(shape, np.float32), name) for name, shape in sizes.items()]
    if kind == "weight":
        stored[0].name = "h.0.attn.qkv.weight"
    nodes = permuted(kind)
    if kind == "weight":
        nodes[4].input[0] = "h.0.attn.qkv.weight"
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 5, 8])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", given, [], stored)), tmp_path / "m.onnx")
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        report = inspect(checkpoint)
    (attention,) = report.attentions
    (said,) = [finding.message for finding in report.findings if finding.code == "rows-from-graph"]
    assert not attention.parts
    assert "in another order" in said
    assert "it is not split" in said


def hostile(kind: str) -> list[Any]:
    """Graphs that would take long or much if they were followed without bounds."""
    first = helper.make_node("MatMul", ["x", "w"], ["v0"])
    one = helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.array([0])))
    if kind == "cycle":
        return [first, helper.make_node("Reshape", ["v2", "v1"], ["v1"]), helper.make_node("Add", ["v1", "v2"], ["v2"])]
    if kind == "many axes":
        steps = [helper.make_node("Unsqueeze", [f"v{n}", "one"], [f"v{n + 1}"]) for n in range(20_000)]
        return [first, one, *steps]
    if kind == "huge sizes":
        huge = numpy_helper.from_array(np.array([1 << 62, 1 << 62, -1]))
        steps = [
            helper.make_node(op, [f"v{n}", "h"], [f"v{n + 1}"]) for n, op in enumerate(["Expand", "Tile", "Reshape"])
        ]
        return [first, helper.make_node("Constant", [], ["h"], value=huge), *steps]
    if kind == "long shapes":
        steps = [helper.make_node("Concat", [f"s{n}", f"s{n}"], [f"s{n + 1}"], axis=0) for n in range(60)]
        sizes = helper.make_node("Constant", [], ["s0"], value=numpy_helper.from_array(np.array([2, 2])))
        return [first, sizes, *steps, helper.make_node("Reshape", ["v0", "s60"], ["v1"])]
    assert kind == "many meetings"
    scores = [helper.make_node("MatMul", ["v0", "v0"], ["a"]), helper.make_node("Softmax", ["a"], ["p"])]
    return [first, *scores, *(helper.make_node("MatMul", ["p", "v0"], [f"o{n}"]) for n in range(20_000))]


@pytest.mark.parametrize(
    "kind",
    long(lambda kind: "many" in kind, ["cycle", "huge sizes", "long shapes", "many axes", "many meetings"]),
)
def test_nothing_in_a_graph_takes_long(kind: str, tmp_path: Path) -> None:
    stored = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    onnx.save(helper.make_model(helper.make_graph(hostile(kind), "g", [], [], [stored])), tmp_path / "m.onnx")
    with no_hang(), bounded_memory(), open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        inspect(checkpoint)


def test_heads_of_attention_that_is_known_are_not_those_of_another(tmp_path: Path) -> None:
    """As in Twins: the graph shows the heads of one kind of layer, and cannot be followed in the others."""
    model = onnx.load(GRAPHS.parent / "onnx_models" / "llama-torchscript.onnx")
    (second,) = (node for node in model.graph.node if node.op_type == "Softmax" and ".1/" in node.name)
    second.op_type = "Erf"
    onnx.save(model, tmp_path / "m.onnx")
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        first, other = inspect(checkpoint).attentions
    assert first.heads is not None
    assert (first.heads.num_heads, first.heads.num_kv_heads) == (4, 2)
    assert other.heads is None
