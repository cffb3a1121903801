"""One small model of attention in every format, from a tree of plain values, any of which may be a lie.

The tree has ``tensors`` (each with ``name``, ``dtype``, ``shape``, ``stride``, ``offset``, ``numel``, ``key`` of its
storage, and ``start`` in the file), ``above`` (the keys that the state_dict lies under), ``beside`` (what else the file
holds) and ``config``. A format whose field cannot hold a value gets the nearest that it can.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from typing import Any

from tests.hostile.writers import dcp, ggufs, headers, legacy, onnxes, pickles, tars, zips

Tree = dict[str, Any]
Files = dict[str, bytes]
"""By name; the first is opened, or the folder of them where its name is empty."""

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
_STORAGES = {
    "F64": "Double", "F32": "Float", "F16": "Half", "BF16": "BFloat16", "I64": "Long", "I32": "Int", "I8": "Char",
    "U8": "Byte", "BOOL": "Bool", "F8_E4M3": "Float8_e4m3fn",
}  # fmt: skip
_GGUF = {"F32": 0, "F16": 1, "F64": 28, "BF16": 30, "I8": 24, "I32": 26, "I64": 27, "U8": 8, "BOOL": 2}
_ONNX = {"F32": 1, "U8": 2, "I8": 3, "I32": 6, "I64": 7, "BOOL": 9, "F16": 10, "F64": 11, "BF16": 16, "F8_E4M3": 17}


def described(name: str, dtype: str, shape: list[int]) -> Tree:
    """A sound tensor."""
    stride, step = [], 1
    for size in reversed(shape):
        stride.insert(0, step)
        step *= max(size, 1)
    return {"name": name, "dtype": dtype, "shape": shape, "stride": stride, "offset": 0, "numel": prod(shape)}


def placed(tree: Tree) -> Tree:
    """The tree with a storage of its own, and a place in the file, for each tensor."""
    start = 0
    for number, one in enumerate(tree["tensors"]):
        size = prod(one["shape"]) * WIDTHS[one["dtype"]]
        one |= {"key": str(number), "start": start, "size": size}
        start += size
    return tree


def data(tree: Tree) -> list[bytes]:
    """The values of each tensor of a sound tree: noise, of which some are zeros."""
    return [_NOISE[(7 * at) % 512 :][: one["size"]].ljust(one["size"], b"\0") for at, one in enumerate(tree["tensors"])]


def _noise() -> bytes:
    import numpy as np

    return np.random.default_rng(0).normal(size=1 << 16).astype("<f4").tobytes()


_NOISE = _noise()


def safetensors(tree: Tree, values: list[bytes]) -> Files:
    """One file, or one with a ``config.json`` beside it."""
    return {"model.safetensors": _safetensors(tree, values), "config.json": _json(tree["config"])}


def _safetensors(tree: Tree, values: list[bytes]) -> bytes:
    entries: list[tuple[str, object]] = []
    for one in _tensors(tree):
        start, size = one.get("start"), one.get("size")
        end = start + size if isinstance(start, int) and isinstance(size, int) else size
        said = {"dtype": one.get("dtype"), "shape": one.get("shape"), "data_offsets": [start, end]}
        entries.append((_text(one.get("name")), said))
    if tree.get("beside"):
        entries.append(("__metadata__", tree["beside"]))
    return headers.safetensors(headers.pairs(entries), b"".join(values))


def sharded(tree: Tree, values: list[bytes]) -> Files:
    """An index and two shards."""
    tensors = _tensors(tree)
    half = len(tensors) // 2
    first = sum(map(len, values[:half]))
    later = [{**one, "start": _within(one.get("start"), 0, 2**70) - first} for one in tensors[half:]]
    shards = {"a.safetensors": tensors[:half], "b.safetensors": later}
    index = {
        "metadata": tree.get("beside"),
        "weight_map": {_text(one.get("name")): name for name, some in shards.items() for one in some},
    }
    return {
        "model.safetensors.index.json": _json(index),
        "a.safetensors": _safetensors({"tensors": shards["a.safetensors"]}, values[:half]),
        "b.safetensors": _safetensors({"tensors": later}, values[half:]),
        "config.json": _json(tree["config"]),
    }


def torch_zip(tree: Tree, values: list[bytes]) -> Files:
    """As torch.save writes it."""
    keys = {str(at): value for at, value in enumerate(values)}
    return {"m.pt": zips.torch_archive(pickles.whole(_root(tree)), keys), "config.json": _json(tree["config"])}


def torch_legacy(tree: Tree, values: list[bytes]) -> Files:
    """As torch.save wrote it before 1.6."""
    stored = [
        legacy.Storage(str(at), _within(one.get("numel"), -(2**63), 2**63 - 1), value)
        for at, (one, value) in enumerate(zip(_tensors(tree), values, strict=False))
    ]
    return {"m.pth": legacy.legacy(pickles.whole(_root(tree, pickles.NONE)), stored)}


def torch_tar(tree: Tree, values: list[bytes]) -> Files:
    """As torch.save wrote it before 0.1.10."""
    stored, made, names = [], [], {}
    for at, (one, value) in enumerate(zip(_tensors(tree), values, strict=False)):
        kind = _STORAGES.get(str(one.get("dtype")), "Float")
        numel = _within(one.get("numel"), -(2**63), 2**63 - 1)
        stored.append(tars.Storage(2 * at + 1, f"{kind}Storage", numel, value))
        shape, stride = ([_within(n, -(2**63), 2**63 - 1) for n in _list(one.get(key))] for key in ("shape", "stride"))
        offset = _within(one.get("offset"), -(2**63), 2**63 - 1)
        made.append(tars.Tensor(2 * at + 2, 2 * at + 1, shape, stride, offset, f"{kind}Tensor"))
        names[_text(one.get("name"))] = tars.reference(2 * at + 2)
    parts = {"storages": tars.storages(stored), "tensors": tars.tensors(made)}
    members = [tars.Member(name, content) for name, content in parts.items()]
    return {"m.pth.tar": tars.archive([*members, tars.Member("pickle", pickles.whole(_nested(tree, names)))])}


def distributed(tree: Tree, values: list[bytes]) -> Files:
    """As torch.distributed.checkpoint writes it, each tensor one chunk."""
    files: Files = {".metadata": b"", "__0_0.distcp": b""}
    found: dict[str, dcp.Tensor] = {}
    for one, value in zip(_tensors(tree), values, strict=False):
        if one.get("dtype") not in ("F32", "I64"):
            continue
        shape = [_within(n, -(2**63), 2**63 - 1) for n in _list(one.get("shape"))]
        whole = len(value) // WIDTHS[one["dtype"]]
        true = shape if prod(shape) == whole else [whole]
        dtype = "float32" if one["dtype"] == "F32" else "int64"
        part = dcp.zipped(value, true, dtype)
        start = len(files["__0_0.distcp"]) + _within(one.get("offset"), -(2**40), 2**40)
        at = [0] * len(shape)
        found[_text(one.get("name"))] = dcp.Tensor(
            shape, [dcp.Chunk(at, true, "__0_0.distcp", start, len(part), shape)], dtype
        )
        files["__0_0.distcp"] += part
    return {**files, ".metadata": dcp.metadata(found), "": b""}


def gguf(tree: Tree, values: list[bytes]) -> Files:
    """As llama.cpp writes it; the numbers of the config are its metadata."""
    write, at = ggufs.Writer(), 0
    entries, body = [], b""
    for one, value in zip(_tensors(tree), values, strict=False):
        sizes = tuple(_within(size, 0, 2**64 - 1) for size in reversed(_list(one.get("shape"))))
        at = len(body) + _within(one.get("offset"), 0, 2**40)
        name = _text(one.get("name")).encode("utf-8", "surrogatepass")
        entries.append(ggufs.Entry(name, sizes, _GGUF.get(str(one.get("dtype")), 99), at))
        body += value + bytes(-len(value) % 32)
    said: list[tuple[bytes, ggufs.Value]] = [(b"general.architecture", write.string(b"llama"))]
    known = {
        "num_attention_heads": "llama.attention.head_count",
        "num_key_value_heads": "llama.attention.head_count_kv",
    }
    for key, value in tree["config"].items() if isinstance(tree["config"], dict) else ():
        name = known.get(_text(key), _text(key)).encode("utf-8", "surrogatepass")
        if isinstance(value, int):
            said.append((name, write.scalar(ggufs.UINT64, _within(value, 0, 2**64 - 1))))
        else:
            said.append((name, write.string(_text(value).encode("utf-8", "surrogatepass"))))
    return {"m.gguf": write.file(write.header(said, entries), body)}


def onnx(tree: Tree, values: list[bytes]) -> Files:
    """Initializers, and a MatMul that each is the weight of."""
    made, nodes = [], []
    for one, value in zip(_tensors(tree), values, strict=False):
        name = _text(one.get("name")).encode("utf-8", "surrogatepass")
        sizes = [_within(size, -(2**63), 2**64 - 1) for size in _list(one.get("shape"))]
        kind = _ONNX.get(str(one.get("dtype")), 99)
        made.append(onnxes.tensor(name, sizes, kind, value if one.get("offset") in (0, None) else None))
        nodes.append(onnxes.node(b"MatMul", (b"x", name), (b"y" + name,), (3, b"/" + name.replace(b".", b"/"))))
    graph = onnxes.message(*((1, one) for one in nodes), *((5, one) for one in made))
    said = tree["config"].items() if isinstance(tree["config"], dict) else ()
    more = [(14, onnxes.entry(_raw(key), _raw(value))) for key, value in said]
    return {"m.onnx": onnxes.model(graph, *more), "config.json": _json(tree["config"])}


def ranks(tree: Tree, values: list[bytes]) -> Files:
    """A share of each of two ranks, as Megatron names them; both hold the same."""
    whole = next(iter(torch_zip(tree, values).values()))
    other = {**tree, "tensors": _tensors(tree)[:-1] if tree["above"] else tree["tensors"]}
    second = next(iter(torch_zip(other, values).values()))
    return {"mp_rank_00/model_optim_rng.pt": whole, "mp_rank_01/model_optim_rng.pt": second, "": b""}


def adapter(tree: Tree, values: list[bytes]) -> Files:
    """As PEFT writes one: the model's weights are its A and B in turn."""
    tensors = [
        {**one, "name": f"base_model.model.{_text(one.get('name')).removesuffix('.weight')}.lora_{'AB'[at % 2]}.weight"}
        for at, one in enumerate(_tensors(tree))
    ]
    config = {"r": 2, "lora_alpha": 4, "peft_type": "LORA", "target_modules": ["q_proj"]}
    said = config | tree["config"] if isinstance(tree["config"], dict) else tree["config"]
    return {
        "adapter_model.safetensors": _safetensors({**tree, "tensors": tensors}, values),
        "adapter_config.json": _json(said),
        "": b"",
    }


def _root(tree: Tree, view: bytes = b"") -> bytes:
    names: dict[str, bytes] = {}
    for one in _tensors(tree):
        kind = f"{_STORAGES.get(str(one.get('dtype')), _text(one.get('dtype')))}Storage".replace("\n", "")
        numel, offset = (_within(one.get(key), -(2**63), 2**80) for key in ("numel", "offset"))
        place = pickles.storage(_text(one.get("key")), numel, kind, view=view)
        shape, stride = ([_within(n, -(2**63), 2**80) for n in _list(one.get(key))] for key in ("shape", "stride"))
        names[_text(one.get("name"))] = pickles.tensor(place, offset, shape, stride)
    return _nested(tree, names)


def _nested(tree: Tree, names: dict[str, bytes]) -> bytes:
    """A state_dict under its keys, with what is beside it."""
    root = pickles.named(names)
    for key in reversed(_list(tree.get("above"))):
        root = pickles.named({"beside": _pickled(tree.get("beside")), _text(key): root})
    return root


def _pickled(value: object) -> bytes:
    match value:
        case bool():
            return pickles.TRUE if value else pickles.FALSE
        case int() if -(2**200) < value < 2**200:
            return pickles.number(value)
        case float():
            return pickles.real(value)
        case str():
            return pickles.text(value)
        case dict():
            return pickles.mapping([(_pickled(key), _pickled(one)) for key, one in value.items()])
        case list():
            return pickles.items(*map(_pickled, value))
        case _:
            return pickles.NONE


def _tensors(tree: Tree) -> list[dict[str, Any]]:
    return [one for one in _list(tree.get("tensors")) if isinstance(one, dict)]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _within(value: object, least: int, most: int) -> int:
    return min(max(value, least), most) if isinstance(value, int) else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _raw(value: object) -> bytes:
    return _text(value).encode("utf-8", "surrogatepass")


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


FORMATS: dict[str, Callable[[Tree, list[bytes]], Files]] = {
    one.__name__: one
    for one in (
        safetensors, sharded, torch_zip, torch_legacy, torch_tar, distributed, gguf, onnx, ranks, adapter,
    )
}  # fmt: skip
