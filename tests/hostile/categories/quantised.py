"""Quantised weights that are broken: files in order, whose scales, states or configs are not those of their codes.

Each is a change to a model of ``tests/weights/encodings/models``, as its library wrote it. None may be decoded.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

MODELS = Path(__file__).parents[2] / "weights" / "encodings" / "models"
MODULE = "blocks.0.attn.qkv"
_COMPANIONS = (
    "scales", "qzeros", "weight_scale", "weight_scale_2", "weight_global_scale", "weight_shape", "SCB", "weight.absmax",
    "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map", "biases", "weight._scale", "_weight_scale",
)  # fmt: skip
_STATES: tuple[dict[str, Any], ...] = (
    {"blocksize": 128}, {"blocksize": 1 << 60}, {"blocksize": 0}, {"blocksize": "64"}, {"quant_type": "int8"},
    {"quant_type": None}, {"shape": [7, 9]}, {"shape": [1 << 40, 1 << 40]}, {"shape": []}, {"dtype": "int8"},
)  # fmt: skip
_CONFIGS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {"bits": 8}) for name in ("gptq_4bit_act_order", "gptq_v2_4bit", "awq", "mlx_4bit", "mlx_2bit")),
    *((name, {"bits": 4}) for name in ("gptq_8bit", "gptq_v2_3bit_act_order", "mlx_8bit", "mlx_6bit")),
    *((name, {"group_size": 1 << 40}) for name in ("gptq_v2_4bit", "gptq_8bit", "awq", "mlx_4bit")),
    *((name, {"group_size": 48}) for name in ("awq", "mlx_4bit", "mlx_3bit")),
    *((name, {"config_groups": {"g": {"weights": {"num_bits": 8, "group_size": 32}}}}) for name in ("ct_int4_group",)),
    *((name, {"config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 1 << 40}}}}) for name in
      ("ct_int4_group", "ct_int4_zeros")),
    *(("ct_float8_block", {"config_groups": {"g": {"weights": {"block_structure": size}}}}) for size in
      ([128, 128], [1 << 40, 1])),
)  # fmt: skip


@dataclass(frozen=True)
class Broken:
    """A file and what its config says.

    Attributes:
        kind: what is wrong, for people.
    """

    kind: str
    name: str
    data: bytes
    said: dict[str, Any]


def cases() -> Iterator[Broken]:
    """All of them."""
    for path in sorted(MODELS.glob("*.safetensors")):
        header, data = _read(path)
        said = json.loads(header.get("__metadata__", {}).get("quantization_config", "{}"))
        for leaf in _COMPANIONS:
            name = f"{MODULE}.{leaf}"
            if name in header:
                yield Broken(
                    "a missing scale", path.stem, _file({k: v for k, v in header.items() if k != name}, data), said
                )
                yield Broken("a scale of another shape", path.stem, _reshaped(header, data, name), said)
        yield from _of_groups(path, header, data, said)
        yield from _shorter(path, header, data, said)
        state = next((name for name in header if name.startswith(f"{MODULE}.weight.quant_state")), None)
        for change in _STATES if state else ():
            yield Broken("a state that says something else", path.stem, _stated(header, data, str(state), change), said)
    for name, change in _CONFIGS:
        header, data = _read(MODELS / f"{name}.safetensors")
        yield Broken("a config that says other bits or groups", name, _file(header, data), {**_said(header), **change})


_SHORTER = ("weight", "qweight", "weight_packed", "_weight_qdata", "weight._data")
"""Tensors of codes."""


def _of_groups(path: Path, header: dict[str, Any], data: bytes, said: dict[str, Any]) -> Iterator[Broken]:
    """The groups of columns: one that there is not, and none at all where the config says that they are in no order."""
    name = f"{MODULE}.g_idx"
    if name not in header or not said.get("desc_act"):
        return
    start, stop = header[name]["data_offsets"]
    for group in (1 << 20, -1, 2, 0x7FFFFFFF):
        values = struct.pack("<i", group) + data[start + 4 : stop]
        one = {**header[name], "data_offsets": [len(data), len(data) + len(values)]}
        yield Broken("a group that there is not", path.stem, _file({**header, name: one}, data + values), said)
    left = {key: one for key, one in header.items() if key != name}
    yield Broken("a group that there is not", path.stem, _file(left, data), said)


def _shorter(path: Path, header: dict[str, Any], data: bytes, said: dict[str, Any]) -> Iterator[Broken]:
    """Codes of which the last row is gone, while the scales are those of all."""
    for leaf in _SHORTER:
        name = f"{MODULE}.{leaf}"
        if name not in header or path.stem in _ONE_SCALE:
            continue
        shape = header[name]["shape"]
        start, stop = header[name]["data_offsets"]
        size = (stop - start) // shape[0]
        one = {**header[name], "shape": [shape[0] - 1, *shape[1:]], "data_offsets": [start, stop - size]}
        yield Broken("codes that are too few", path.stem, _file({**header, name: one}, data), said)


_ONE_SCALE = ("original", "ct_float8_tensor", "modelopt_float8", "ct_float8_block", "fp8_transformers")
"""Models whose last row may go: it has its scale with others."""


def _said(header: dict[str, Any]) -> dict[str, Any]:
    return json.loads(header["__metadata__"]["quantization_config"])


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def _file(header: dict[str, Any], data: bytes) -> bytes:
    """A sound file of some of the tensors, without metadata."""
    out, kept = bytearray(), dict[str, Any]()
    for name, one in header.items():
        if name != "__metadata__":
            start, stop = one["data_offsets"]
            kept[name] = {**one, "data_offsets": [len(out), len(out) + stop - start]}
            out += data[start:stop]
    text = json.dumps(kept).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(out)


def _reshaped(header: dict[str, Any], data: bytes, name: str) -> bytes:
    """The first three numbers of a tensor, or seven where it has three or fewer."""
    one = header[name]
    start, stop = one["data_offsets"]
    count = max(1, prod(one["shape"]))
    size = (stop - start) // count
    many = 3 if count > 3 else 7
    values = (data[start:stop] * 7)[: many * size]
    changed = {**header, name: {**one, "shape": [many], "data_offsets": [len(data), len(data) + len(values)]}}
    return _file(changed, data + values)


def _stated(header: dict[str, Any], data: bytes, name: str, change: dict[str, Any]) -> bytes:
    start, stop = header[name]["data_offsets"]
    text = json.dumps({**json.loads(data[start:stop]), **change}).encode()
    one = {**header[name], "shape": [len(text)], "data_offsets": [len(data), len(data) + len(text)]}
    return _file({**header, name: one}, data + text)
