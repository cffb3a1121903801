"""A weight that several modules use is that of each of them: exporters store equal ones once (onnx_shared/make.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect

SHARED = Path(__file__).parent / "onnx_shared"
LAYERS = {
    "decoder": [f"dec.layers.{layer}.{part}" for layer in (0, 1) for part in ("multihead_attn", "self_attn")],
    "twice": ["layer.multihead_attn", "layer.self_attn"],
    "twice-no-bias": ["layer.multihead_attn", "layer.self_attn"],
    "begun": ["tr.decoder.layers.0.multihead_attn", "tr.decoder.layers.0.self_attn", "tr.encoder.layers.0.self_attn"],
    "apart": ["layers.0", "layers.1"],
    "listed": ["layers.0.cross", "layers.1.cross"],
}
PARTS = ["q_proj", "k_proj", "v_proj"]


def parts_of(state: dict[str, Any], layer: str, kind: str) -> list[Any]:
    """Q, K and V of an nn.MultiheadAttention."""
    packed = state.get(f"{layer}.in_proj_{kind}")
    return [state[f"{layer}.{part}_{kind}"] for part in PARTS] if packed is None else np.split(packed, 3)


def test_there_is_one_for_each_file() -> None:
    assert {path.stem for path in SHARED.glob("*.onnx")} == LAYERS.keys()


@pytest.mark.parametrize("name", LAYERS)
def test_every_module_has_its_rows(name: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    found = json.loads(run("show", SHARED / f"{name}.onnx", "-f", "json").out)
    assert sorted(one["layer"] for one in found["attentions"]) == LAYERS[name]
    assert not [one for one in found["findings"] if one["severity"] == "error"]
    out = tmp_path / "parts.safetensors"
    done = run("export", "--split", SHARED / f"{name}.onnx", "-o", out, "--verify", "--no-evidence")
    assert done.code == 0, done.err
    written, state = load_file(out), load_file(SHARED / f"{name}.safetensors")
    has_bias = not name.endswith("no-bias")
    for layer in LAYERS[name]:
        for kind in ("weight", "bias") if has_bias else ("weight",):
            for part, expected in zip(PARTS, parts_of(state, layer, kind), strict=True):
                assert np.array_equal(written[f"{layer}.{part}.{kind}"], expected), (layer, part, kind)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "twice-no-bias"])
def test_it_is_the_model_that_it_was_made_of(name: str, run: Callable[..., Any]) -> None:
    found = run("diff", SHARED / f"{name}.safetensors", SHARED / f"{name}.onnx", "-f", "json", "--no-evidence")
    assert found.code == 0, found
    difference = json.loads(found.out)
    assert sorted(layer["b"] for layer in difference["layers"]) == LAYERS[name]
    assert {layer["status"] for layer in difference["layers"]} == {"identical"}
    assert {one["status"] for one in difference["others"]["tensors"]} <= {"identical"}


def attention(queries: str, keys_and_values: str, at: str, again: str | None = None) -> list[Any]:
    """The nodes of one module, or those that are left of it where K and V of another are taken.

    Args:
        at: the path of the module.
        again: that of the one whose K and V are taken.
    """
    kv = again or at
    nodes = [helper.make_node("MatMul", ["x", queries], [f"{at}/q0"], name=f"{at}/MatMul")]
    if again is None:
        nodes.append(helper.make_node("MatMul", ["m", keys_and_values], [f"{at}/kv"], name=f"{at}/MatMul_1"))
        nodes.append(helper.make_node("Split", [f"{at}/kv", "halves"], [f"{at}/k0", f"{at}/v0"], axis=2))
        for part, order in {"k": (0, 2, 3, 1), "v": (0, 2, 1, 3)}.items():
            nodes.append(helper.make_node("Reshape", [f"{at}/{part}0", "shape"], [f"{at}/{part}1"]))
            nodes.append(helper.make_node("Transpose", [f"{at}/{part}1"], [f"{at}/{part}"], perm=order))
    nodes.append(helper.make_node("Reshape", [f"{at}/q0", "shape"], [f"{at}/q1"]))
    nodes.append(helper.make_node("Transpose", [f"{at}/q1"], [f"{at}/q"], perm=(0, 2, 1, 3)))
    nodes.append(helper.make_node("MatMul", [f"{at}/q", f"{kv}/k"], [f"{at}/s"]))
    nodes.append(helper.make_node("Softmax", [f"{at}/s"], [f"{at}/p"]))
    return [*nodes, helper.make_node("MatMul", [f"{at}/p", f"{kv}/v"], [f"{at}/o"])]


def modules_in(path: Path, nodes: Sequence[Any]) -> list[tuple[str, set[str]]]:
    """(layer, stored weights) of each attention of a graph of these nodes."""
    rng = np.random.default_rng(0)
    sizes = {"onnx::MatMul_1": (8, 8), "onnx::MatMul_2": (8, 16), "onnx::MatMul_3": (8, 8), "onnx::MatMul_4": (8, 16)}
    sizes |= {f"layer.{module}.out_proj.weight": (8, 8) for module in ("attn", "attn_1")}
    arrays = {name: rng.random(shape, np.float32) for name, shape in sizes.items()}
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    stored.append(numpy_helper.from_array(np.array([0, 0, 2, 4]), "shape"))
    stored.append(numpy_helper.from_array(np.array([8, 8]), "halves"))
    given = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 5, 8]) for name in "xm"]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", given, [], stored)), path)
    called = {array.tobytes(): name for name, array in arrays.items()}
    with open_checkpoint(path) as checkpoint:
        infos = [
            (one.layer, [checkpoint.tensors[part.weight.name] for part in one.parts])
            for one in inspect(checkpoint).attentions
        ]
        return sorted((layer, {called[info.region.read(0, info.nbytes)] for info in each}) for layer, each in infos)


def output(of: str, at: str) -> Any:
    taken = [f"{at}/o", f"layer.{of}.out_proj.weight"]
    return helper.make_node("Gemm", taken, [f"{at}/y"], name=f"{at}/Gemm", transB=1)


FIRST, SECOND = ("onnx::MatMul_1", "onnx::MatMul_2"), ("onnx::MatMul_3", "onnx::MatMul_4")
WEIGHTS = [{*FIRST}, {*SECOND}]


def test_what_an_optimiser_computes_once_is_of_both_modules(tmp_path: Path) -> None:
    nodes = [*attention(*FIRST, "/layers.0/attn"), *attention(*FIRST, "/layers.1/attn", "/layers.0/attn")]
    found = modules_in(tmp_path / "m.onnx", nodes)
    assert found == [("layers.0.attn", WEIGHTS[0]), ("layers.1.attn", WEIGHTS[0])]


def test_queries_that_are_shared_meet_their_own_keys(tmp_path: Path) -> None:
    """Of three modules with the same Q two have the same K and V."""
    nodes = [*attention(*FIRST, "/layers.0/attn"), *attention(*FIRST, "/layers.1/attn")]
    nodes += attention(FIRST[0], SECOND[1], "/layers.2/attn")
    found = modules_in(tmp_path / "m.onnx", nodes)
    other = {FIRST[0], SECOND[1]}
    assert found == [("layers.0.attn", WEIGHTS[0]), ("layers.1.attn", WEIGHTS[0]), ("layers.2.attn", other)]


def test_keys_that_are_shared_are_of_each_module(tmp_path: Path) -> None:
    nodes = [*attention(*FIRST, "/layers.0/attn"), *attention(SECOND[0], FIRST[1], "/layers.1/attn")]
    found = modules_in(tmp_path / "m.onnx", nodes)
    assert found == [("layers.0.attn", WEIGHTS[0]), ("layers.1.attn", {SECOND[0], FIRST[1]})]


def test_a_second_call_is_told_from_a_module_that_is_called_so(tmp_path: Path) -> None:
    nodes = [*attention(*FIRST, "/layer/attn"), output("attn", "/layer/attn"), *attention(*FIRST, "/layer/attn_1")]
    again = modules_in(tmp_path / "m.onnx", [*nodes, output("attn", "/layer/attn_1")])
    own = modules_in(tmp_path / "m.onnx", [*nodes, output("attn_1", "/layer/attn_1")])
    assert again == [("layer.attn", WEIGHTS[0])]
    assert own == [("layer.attn", WEIGHTS[0]), ("layer.attn_1", WEIGHTS[0])]
