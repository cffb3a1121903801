"""ONNX files that torch's exporters, onnxruntime and the onnx package wrote, read as the onnx package reads them."""

from __future__ import annotations

import json
import resource
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.explain.snippet import python
from qkvinspect.formats import open_checkpoint
from qkvinspect.formats.onnx.tensors import ONNX_TYPES
from qkvinspect.inspection import inspect
from tests.batches import batched
from tests.hostile.writers.onnxes import message, number, tensor
from tests.some import crossed, first

MODELS = Path(__file__).parent / "onnx_models"
EXPORTED = sorted(path.stem for path in MODELS.glob("*.onnx"))
TABLES = {f"model.embeddings.{kind}_embeddings.weight" for kind in ("position", "token_type")}
FOLDED = {  # what torch computed with while it exported, so that the file does not hold the weight itself
    "bert-dynamo": TABLES,
    "bert-eager-dynamo": TABLES,
    "gpt2-dynamo": {"model.wpe.weight"},
    "vit-dynamo": {"model.embeddings.cls_token"},
}
BUFFERS = {"llama-dynamo": {"model.rotary_emb.inv_freq"}}  # which a state_dict does not hold
OF_OPERATORS = {f"model.encoder.layer.{n}.attention.self.qkv_{kind}" for n in (0, 1) for kind in ("weight", "bias")}


def stem(name: str) -> Path:
    """The weights that an export was made of."""
    while not (MODELS / f"{name}.safetensors").exists():
        name = name.rpartition("-")[0]
    return MODELS / f"{name}.safetensors"


def source_of(name: str) -> dict[str, Any]:
    return load_file(stem(name))


def values(info: Any, content: Callable[[Any], bytes]) -> Any:
    return np.frombuffer(content(info), np.float32).reshape(info.shape)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_weight_has_the_name_and_the_numbers_of_the_model(name: str, content: Any) -> None:
    state = source_of(name)
    packed = {key for key in state if ".attention.self." in key} if name == "bert-eager-attention" else set[str]()
    with open_checkpoint(MODELS / f"{name}.onnx") as checkpoint:
        expected = (set(state) - FOLDED.get(name, set()) - packed) | BUFFERS.get(name, set())
        assert set(checkpoint.tensors) == expected | (OF_OPERATORS if packed else set())
        for key in state.keys() & checkpoint.tensors.keys():
            assert np.array_equal(values(checkpoint.tensors[key], content), state[key]), key
        for layer in (0, 1) if packed else ():
            place = f"model.encoder.layer.{layer}.attention.self"
            parts = [state[f"{place}.{part}.weight"] for part in ("query", "key", "value")]
            assert np.array_equal(values(checkpoint.tensors[f"{place}.qkv_weight"], content), np.concatenate(parts))


@pytest.mark.parametrize("name", EXPORTED)
def test_heads_are_those_of_the_graph(name: str) -> None:
    with open_checkpoint(MODELS / f"{name}.onnx") as checkpoint:
        report = inspect(checkpoint)
    assert len(report.attentions) == (4 if name.startswith("decoder") else 2)
    for layer in report.attentions:
        assert layer.heads is not None
        kv_heads = 2 if name.startswith("llama") else 4
        assert (layer.heads.num_heads, layer.heads.num_kv_heads, layer.heads.head_dim) == (4, kv_heads, 4)
        assert layer.heads_from.startswith("checkpoint:graph:")
    assert {str(finding.code) for finding in report.findings} <= {"names-from-graph"}


@pytest.mark.parametrize("name", EXPORTED)
def test_the_code_gives_the_weights_of_the_model(name: str) -> None:
    state = source_of(name)
    with open_checkpoint(MODELS / f"{name}.onnx") as checkpoint:
        for layer in inspect(checkpoint).attentions:
            found: dict[str, Any] = {"torch": torch, "onnx": onnx}
            exec(textwrap.dedent("\n".join(python(layer, checkpoint))), found)
            rows = [
                value for key, value in state.items() if key.startswith(f"{layer.layer}.") and value.shape[-1] >= 16
            ]
            for part in layer.parts:
                expected = found[part.name].numpy()
                assert expected.shape == part.shape
                whole = [one.T if "c_attn" in layer.weights[0].name else one for one in rows if one.ndim == 2]
                assert any(
                    np.array_equal(expected, one[start : start + len(expected)])
                    for one in whole
                    for start in range(0, len(one), len(expected))
                )


@crossed(
    command=["show", "explain", "check", "analyze"],
    name=["encoder-dynamo", "bert-eager-attention", "llama-torchscript"],
)
def test_every_command_takes_it(command: str, name: str, run: Callable[..., Any]) -> None:
    found = run(command, MODELS / f"{name}.onnx")
    assert found.code == 0, found
    assert not found.err


@pytest.mark.parametrize("name", EXPORTED)
def test_it_is_the_model_that_it_was_made_of(name: str, run: Callable[..., Any]) -> None:
    found = run("diff", stem(name), MODELS / f"{name}.onnx", "-f", "json", "--no-evidence")
    assert found.code == (1 if name in FOLDED | BUFFERS else 0), found
    difference = json.loads(found.out)
    assert {layer["status"] for layer in difference["layers"]} == {"identical"}
    others = {
        tensor["a"] or tensor["b"] for tensor in difference["others"]["tensors"] if tensor["status"] != "identical"
    }
    assert others == FOLDED.get(name, set()) | BUFFERS.get(name, set())


def test_its_parts_are_exported(tmp_path: Path, run: Callable[..., Any]) -> None:
    out = tmp_path / "out.safetensors"
    done = run("export", "--split", MODELS / "encoder-torchscript.onnx", "-o", out, "--verify")
    assert done.code == 0, done.err
    state, parts = source_of("encoder-torchscript"), load_file(out)
    for layer in (0, 1):
        whole = state[f"layers.{layer}.self_attn.in_proj_weight"]
        for part, rows in zip("qkv", np.split(whole, 3), strict=True):
            assert np.array_equal(parts[f"layers.{layer}.self_attn.{part}_proj.weight"], rows)


def saved(path: Path, nodes: Sequence[Any], tensors: Sequence[Any], **options: Any) -> Path:
    graph = helper.make_graph(nodes, "g", [], [], tensors)
    onnx.save(helper.make_model(graph), path, **options)
    return path


def attention(op: str, weights: dict[str, Any], outputs: Sequence[str], numbers: dict[str, int]) -> tuple[Any, Any]:
    """Products of packed or separate weights, and one operator that takes them."""
    nodes = [
        helper.make_node("MatMul", ["x", f"onnx::MatMul_{n}"], [f"y{n}"], name=f"/layers.0/self_attn/{name}/MatMul")
        for n, name in enumerate(weights)
    ]
    domain = "com.microsoft" if op == "GroupQueryAttention" else ""
    nodes.append(helper.make_node(op, list(outputs), ["z"], domain=domain, **numbers))
    stored = [numpy_helper.from_array(value, f"onnx::MatMul_{n}") for n, value in enumerate(weights.values())]
    return nodes, stored


@pytest.mark.parametrize(
    ("op", "keys"),
    [("GroupQueryAttention", ("num_heads", "kv_num_heads")), ("Attention", ("q_num_heads", "kv_num_heads"))],
)
def test_operators_say_their_heads(op: str, keys: tuple[str, str], tmp_path: Path) -> None:
    sizes = {"q_proj": 24, "k_proj": 12, "v_proj": 12}
    weights = {name: np.random.default_rng(0).random((24, size), np.float32) for name, size in sizes.items()}
    nodes, stored = attention(op, weights, ["y0", "y1", "y2"], dict(zip(keys, (6, 3), strict=True)))
    with open_checkpoint(saved(tmp_path / "m.onnx", nodes, stored)) as checkpoint:
        (layer,) = inspect(checkpoint).attentions
        assert layer.layer == "layers.0.self_attn"
        assert layer.heads is not None
        assert (layer.heads.num_heads, layer.heads.num_kv_heads, layer.heads.head_dim) == (6, 3, 4)


def test_the_weights_of_an_operator_are_those_of_the_model(tmp_path: Path, run: Callable[..., Any]) -> None:
    sizes = {"q_proj": 24, "k_proj": 12, "v_proj": 12}
    weights = {name: np.random.default_rng(0).random((24, size), np.float32) for name, size in sizes.items()}
    nodes, stored = attention("GroupQueryAttention", weights, ["y0", "y1", "y2"], {"num_heads": 6, "kv_num_heads": 3})
    state = {f"layers.0.self_attn.{name}.weight": np.ascontiguousarray(value.T) for name, value in weights.items()}
    save_file(state, tmp_path / "m.safetensors")
    path = saved(tmp_path / "m.onnx", nodes, stored)
    found = run("diff", tmp_path / "m.safetensors", path, "-f", "json")
    assert found.code == 0, found
    (layer,) = json.loads(found.out)["layers"]
    assert (layer["status"], layer["num_heads"]) == ("identical", 6)


def test_matrices_that_nothing_names_are_said(tmp_path: Path) -> None:
    """As onnxruntime's quantiser leaves what torch's newer exporter wrote, where nothing adds a bias."""
    nodes = [helper.make_node("MatMulNBits", ["x", "val_8_Q4", "val_8_scales"], ["y"], domain="com.microsoft")]
    nodes[0].attribute.extend([helper.make_attribute(*one) for one in (("K", 16), ("N", 16), ("block_size", 16))])
    shapes = {"val_8_Q4": np.zeros((16, 1, 8), np.uint8), "val_8_scales": np.ones((16, 1), np.float32)}
    stored = [numpy_helper.from_array(value, name) for name, value in shapes.items()]
    with open_checkpoint(saved(tmp_path / "m.onnx", nodes, stored)) as checkpoint:
        (finding,) = checkpoint.findings
    assert "1 matrix of MatMulNBits left out" in finding.message
    assert "val_8_Q4" in finding.message


def test_matrices_inside_nodes_are_said(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    nodes = [helper.make_node("Constant", [], ["w"], value=value), helper.make_node("MatMul", ["x", "w"], ["y"])]
    with open_checkpoint(saved(tmp_path / "m.onnx", nodes, [])) as checkpoint:
        (finding,) = checkpoint.findings
    assert finding.message.startswith("16384 bytes of matrices lie inside nodes")


def test_a_packed_product_is_cut_as_its_operator_takes_it(tmp_path: Path) -> None:
    weights = {"qkv_proj": np.random.default_rng(0).random((24, 48), np.float32)}
    nodes, stored = attention("GroupQueryAttention", weights, ["y0", "", ""], {"num_heads": 6, "kv_num_heads": 3})
    with open_checkpoint(saved(tmp_path / "m.onnx", nodes, stored)) as checkpoint:
        (layer,) = inspect(checkpoint).attentions
        assert layer.heads is not None
        assert (layer.heads.num_heads, layer.heads.num_kv_heads, layer.heads.head_dim) == (6, 3, 4)
        assert {part.name: part.rows for part in layer.parts} == {
            "q": (range(24),),
            "k": (range(24, 36),),
            "v": (range(36, 48),),
        }


def test_weights_in_a_branch_and_in_other_files(tmp_path: Path, content: Any) -> None:
    rng = np.random.default_rng(0)
    weights = {f"{part}_proj": rng.random((8, 8), np.float32) for part in "qkv"}
    nodes, stored = attention("Attention", weights, ["y0", "y1", "y2"], {"q_num_heads": 2, "kv_num_heads": 2})
    branch = helper.make_graph(nodes, "branch", [], [])
    outer = [helper.make_node("If", ["c"], ["out"], then_branch=branch, else_branch=branch)]
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    path = saved(tmp_path / "m.onnx", outer, stored, **options)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.num_files == 2
        (layer,) = inspect(checkpoint).attentions
        assert layer.layer == "layers.0.self_attn"
        for part, value in weights.items():
            assert np.array_equal(values(checkpoint.tensors[f"layers.0.self_attn.{part}.weight"], content), value.T)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.code is Code.FILE_MISSING


def _kinds() -> list[int]:
    return [kind for kind in TensorProto.DataType.values() if kind not in (TensorProto.UNDEFINED, TensorProto.STRING)]


def test_types_are_those_of_the_package() -> None:
    assert set(ONNX_TYPES) == set(_kinds())


@pytest.mark.parametrize("raw", [True, False])
@batched("kind", {TensorProto.DataType.Name(kind): kind for kind in _kinds()})
def test_numbers_of_every_type(kind: int, raw: bool, tmp_path: Path, content: Any) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    numbers = np.arange(48).reshape(6, 8) % 2
    proto = numpy_helper.from_array(numbers.astype(dtype), "w")
    if not raw:
        proto = helper.make_tensor("w", kind, (6, 8), numbers.astype(dtype).ravel(), raw=False)
    path = saved(tmp_path / "m.onnx", [], [proto])
    if not raw and ONNX_TYPES[kind].bits < 8:
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path)
        assert caught.value.code is Code.ONNX_RANGE
        return
    with open_checkpoint(path) as checkpoint:
        info = checkpoint.tensors["w"]
        assert info.shape == (6, 8)
        bits = ONNX_TYPES[kind].bits
        assert info.region.read(0, info.nbytes) == numpy_helper.from_array(numbers.astype(dtype), "w").raw_data
        assert info.nbytes == 48 * bits // 8
        if bits >= 8:
            assert content(info) == numbers.astype(dtype).tobytes()


@pytest.mark.parametrize("hole", first(1, [1 << 27, 1 << 29]))
@pytest.mark.gate
def test_gigabytes_take_no_memory(hole: int, tmp_path: Path) -> None:
    """A file of holes: a Linear of so many bytes three times over, and what stands around it."""
    path = tmp_path / "m.onnx"
    rows = hole // 4 // 4096
    pieces: list[bytes | int] = []
    for part in "qkv":
        head = tensor(f"attn.{part}_proj.weight".encode(), (rows, 4096), 1, None)
        length = len(head) + 1 + len(number(hole)) + hole
        pieces += [number(5 << 3 | 2) + number(length) + head + number(9 << 3 | 2) + number(hole), hole]
    size = sum(piece if isinstance(piece, int) else len(piece) for piece in pieces)
    with path.open("wb") as file:
        file.write(message((1, 8)) + number(7 << 3 | 2) + number(size))
        for piece in pieces:
            file.seek(piece, 1) if isinstance(piece, int) else file.write(piece)
        file.truncate()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_checkpoint(path) as checkpoint:
        (layer,) = inspect(checkpoint).attentions
        assert [part.shape for part in layer.parts] == [(rows, 4096)] * 3
        assert checkpoint.tensors["attn.v_proj.weight"].region.read(hole - 8, 8) == bytes(8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
