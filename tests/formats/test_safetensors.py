"""safetensors files: written by the library or byte by byte, with the library's own parser as the oracle."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from qkvinspect.cli import main
from qkvinspect.dtypes import DTYPES
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError, UsageError
from qkvinspect.formats import open_checkpoint
from qkvinspect.formats.safetensors import CODES
from tests.batches import batched

BYTES = np.random.default_rng(0).integers(0, 256, 480, np.uint8).tobytes()


@batched("code", [*CODES])
def test_every_dtype_of_the_format(code: str, raw_safetensors: Any, content: Any) -> None:
    bits = DTYPES[CODES[code]].bits
    data = bytes(byte % 2 for byte in BYTES) if code == "BOOL" else BYTES
    shape = [4, len(data) * 8 // bits // 4]
    header = {"w": {"dtype": code, "shape": shape, "data_offsets": [0, len(data)]}}
    path = raw_safetensors(header, data)
    ((name, oracle),) = safetensors.deserialize(path.read_bytes())
    assert (name, oracle["dtype"], oracle["shape"]) == ("w", code, shape)
    with open_checkpoint(path) as checkpoint:
        info = checkpoint.tensors["w"]
        assert (checkpoint.format, checkpoint.loader) == ("safetensors", "safetensors")
        assert checkpoint.sorted_names
        assert info.dtype.name == CODES[code]
        assert list(info.shape) == shape
        assert info.contiguous
        assert content(info) == bytes(oracle["data"])


def test_codes_are_those_of_the_library() -> None:
    known = {code: str(dtype).removeprefix("torch.") for code, dtype in safetensors.torch._TYPES.items()}
    for code, name in known.items():
        assert CODES[code] == name or (code, name) == ("F4", "float4_e2m1fn_x2")
    for code in CODES:  # the Rust parser knows each, and no other name than these
        header = {"w": {"dtype": code, "shape": [0], "data_offsets": [0, 0]}}
        text = json.dumps(header).encode()
        safetensors.deserialize(struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize(
    "name", sorted({str(dtype).removeprefix("torch.") for dtype in safetensors.torch._TYPES.values()})
)
def test_what_the_library_writes(name: str, tmp_path: Path, content: Any, tensor_bytes: Any) -> None:
    raw = torch.frombuffer(bytearray(BYTES), dtype=torch.uint8)
    tensor = (raw % 2 if name == "bool" else raw.clone()).view(getattr(torch, name)).view(4, -1)
    state = {"w": tensor, "tail": tensor[1:].clone(), "none": tensor[:0].clone(), "0-dim": torch.tensor(2.5)}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path, metadata={"format": "pt", "heads": "8"})
    loaded = safetensors.torch.load_file(path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "heads": "8"}
        assert checkpoint.num_bytes == path.stat().st_size
        assert set(checkpoint.tensors) == set(state)
        for key, info in checkpoint.tensors.items():
            assert content(info) == tensor_bytes(loaded[key])
            packed = 2 if info.dtype.name == "float4_e2m1fn" else 1
            assert info.numel == loaded[key].numel() * packed
            assert info.keys == (key,)


def test_order_is_that_of_the_header(raw_safetensors: Any) -> None:
    header = {name: {"dtype": "U8", "shape": [1], "data_offsets": [at, at + 1]} for at, name in enumerate("zaqb")}
    backwards = dict(reversed(header.items()))
    with open_checkpoint(raw_safetensors(backwards, b"1234")) as checkpoint:
        assert list(checkpoint.tensors) == list("bqaz")


def entry(dtype: object = "F32", shape: object = (2, 3), data_offsets: object = (0, 24), **more: object) -> Any:
    fields = {"dtype": dtype, "shape": shape, "data_offsets": data_offsets, **more}
    return {name: value for name, value in fields.items() if value != "MISSING"}


def text(header: object) -> bytes:
    return json.dumps(header).encode()


ONE = text({"w": entry()})
SOUND: dict[str, tuple[bytes, bytes]] = {
    "no tensors": (b"{}", b""),
    "only metadata": (b'{"__metadata__":{"a":"b"}}', b""),
    "padded with spaces": (ONE + b"   ", bytes(24)),
    "scalar": (text({"w": entry(shape=[], data_offsets=[0, 4])}), bytes(4)),
    "no elements": (text({"w": entry(shape=[0, 5], data_offsets=[0, 0])}), b""),
    "no elements at the same place": (
        text(
            {"a": entry(shape=[0], data_offsets=[0, 0]), "w": entry(), "b": entry(shape=[3, 0], data_offsets=[24, 24])}
        ),
        bytes(24),
    ),
    "no elements between": (
        text(
            {
                "w": entry(),
                "b": entry(shape=[0], data_offsets=[24, 24]),
                "c": entry(shape=[0], data_offsets=[24, 24]),
                "v": entry(data_offsets=[24, 48]),
            }
        ),
        bytes(48),
    ),
    "rank 1000": (text({"w": entry(shape=[1] * 999 + [6])}), bytes(24)),
    "names of any sort": (
        text(
            {name: entry(data_offsets=[24 * n, 24 * n + 24]) for n, name in enumerate(["", "../../x", "\x1b[2J", "é"])}
        ),
        bytes(96),
    ),
}


@pytest.mark.parametrize(("header", "data"), SOUND.values(), ids=SOUND)
def test_sound(header: bytes, data: bytes, raw_safetensors: Any, content: Any) -> None:
    path = raw_safetensors(header, data)
    oracle = dict(safetensors.deserialize(path.read_bytes()))
    with open_checkpoint(path) as checkpoint:
        assert set(checkpoint.tensors) == set(oracle)
        for name, info in checkpoint.tensors.items():
            assert list(info.shape) == oracle[name]["shape"]
            assert content(info) == bytes(oracle[name]["data"])


DEEP = b'{"w":' * 100_000 + b"1" + b"}" * 100_000
# A fourth item says that the library accepts the file: where readers disagree, qkvinspect refuses.
MALFORMED: dict[str, tuple[bytes, bytes, str] | tuple[bytes, bytes, str, bool]] = {
    "not UTF-8": (b'{"w\xff":' + text(entry()) + b"}", bytes(24), "not valid JSON"),
    "not JSON": (b'{"w": }', b"", "not valid JSON"),
    "JSON cut off": (ONE[:-1], bytes(24), "not valid JSON"),
    "single quotes": (ONE.replace(b'"', b"'"), bytes(24), "not valid JSON"),
    "NaN": (b'{"w":NaN}', b"", "not valid JSON"),
    "a comma too many": (b'{"w":' + text(entry()) + b",}", bytes(24), "not valid JSON"),
    "nested too deeply": (DEEP, b"", "nested too deeply"),
    "nested arrays": (b'{"w":' + b"[" * 100_000, b"", "nested too deeply|not valid JSON"),
    "an integer of 5000 digits": (b'{"w":' + b"9" * 5000 + b"}", b"", "not valid JSON|needs exactly"),
    "junk after": (ONE + b"x", bytes(24), "not valid JSON"),
    "NUL after": (ONE + b"\x00", bytes(24), "not valid JSON"),
    "second object after": (ONE + b"{}", bytes(24), "not valid JSON"),
    "duplicate name": (b'{"w":%b,"w":%b}' % (text(entry()), text(entry())), bytes(24), "'w' stands in it twice", True),
    "duplicate name, spelled otherwise": (
        b'{"w":%b,"\\u0077":%b}' % (text(entry()), text(entry())),
        bytes(24),
        "twice",
        True,
    ),
    "duplicate field": (ONE.replace(b'"dtype"', b'"dtype": "F32", "dtype"'), bytes(24), "'dtype' stands in it twice"),
    "duplicate metadata": (b'{"__metadata__":{"a":"1","a":"2"}}', b"", "twice", True),
    "two metadata": (b'{"__metadata__":{},"__metadata__":{}}', b"", "twice"),
    "metadata is a list": (b'{"__metadata__":[]}', b"", "metadata"),
    "metadata is null": (b'{"__metadata__":null}', b"", "metadata", True),
    "metadata of numbers": (b'{"__metadata__":{"a":1}}', b"", "metadata"),
    "metadata nested": (b'{"__metadata__":{"a":{}}}', b"", "metadata"),
    "no dtype": (text({"w": entry(dtype="MISSING")}), bytes(24), "needs exactly"),
    "no shape": (text({"w": entry(shape="MISSING")}), bytes(24), "needs exactly"),
    "no data_offsets": (text({"w": entry(data_offsets="MISSING")}), bytes(24), "needs exactly"),
    "unknown field": (text({"w": entry(color="red")}), bytes(24), "needs exactly", True),
    "tensor is a list": (b'{"w":[]}', b"", "needs exactly"),
    "tensor is null": (b'{"w":null}', b"", "needs exactly"),
    "tensor is text": (b'{"w":"dtype"}', b"", "needs exactly"),
    "unknown dtype": (text({"w": entry(dtype="F128")}), bytes(24), "unknown dtype"),
    "dtype in small letters": (text({"w": entry(dtype="f32")}), bytes(24), "unknown dtype"),
    "dtype of torch": (text({"w": entry(dtype="float32")}), bytes(24), "unknown dtype"),
    "dtype is null": (text({"w": entry(dtype=None)}), bytes(24), "unknown dtype"),
    "dtype is a list": (text({"w": entry(dtype=["F32"])}), bytes(24), "unknown dtype"),
    "dtype has a newline": (text({"w": entry(dtype="F\n32")}), bytes(24), "unknown dtype"),
    "shape negative": (text({"w": entry(shape=[-2, -3])}), bytes(24), "shape"),
    "shape of floats": (text({"w": entry(shape=[2.0, 3.0])}), bytes(24), "shape"),
    "shape of text": (text({"w": entry(shape=["2", "3"])}), bytes(24), "shape"),
    "shape of booleans": (text({"w": entry(shape=[True, 6])}), bytes(24), "shape"),
    "shape is a number": (text({"w": entry(shape=6)}), bytes(24), "shape"),
    "shape is null": (text({"w": entry(shape=None)}), bytes(24), "shape"),
    "size of 2^64": (text({"w": entry(shape=[1 << 64])}), bytes(24), "shape"),
    "product of 2^64": (text({"w": entry(shape=[1 << 32, 1 << 32])}), bytes(24), "disagree"),
    "product wraps to 24 bytes": (text({"w": entry(shape=[(1 << 61) + 3, 2])}), bytes(24), "disagree"),
    "overflow with a zero": (
        text({"w": entry(shape=[0, (1 << 64) - 1, (1 << 64) - 1], data_offsets=[0, 0])}),
        b"",
        "shape",
        True,
    ),
    "shape larger than data": (text({"w": entry(shape=[2, 4])}), bytes(24), "disagree"),
    "shape smaller than data": (text({"w": entry(shape=[2, 2])}), bytes(24), "disagree"),
    "half a byte": (text({"w": entry(dtype="F4", shape=[3], data_offsets=[0, 2])}), bytes(2), "disagree"),
    "three quarters of a byte": (text({"w": entry(dtype="F6_E2M3", shape=[1], data_offsets=[0, 1])}), b"1", "disagree"),
    "offsets are one": (text({"w": entry(data_offsets=[24])}), bytes(24), "two numbers"),
    "offsets are three": (text({"w": entry(data_offsets=[0, 12, 24])}), bytes(24), "two numbers"),
    "offsets of floats": (text({"w": entry(data_offsets=[0.0, 24.0])}), bytes(24), "two numbers"),
    "offsets are null": (text({"w": entry(data_offsets=None)}), bytes(24), "two numbers"),
    "offsets reversed": (text({"w": entry(data_offsets=[24, 0])}), bytes(24), "end before they start"),
    "offsets negative": (text({"w": entry(data_offsets=[-24, 0])}), bytes(24), "outside the file"),
    "offsets past the end": (text({"w": entry(data_offsets=[24, 48])}), bytes(24), "outside the file"),
    "offsets of 2^64": (text({"w": entry(data_offsets=[0, 1 << 64])}), bytes(24), "outside the file"),
    "hole before": (text({"w": entry(data_offsets=[8, 32])}), bytes(32), "do not follow"),
    "hole between": (
        text({"w": entry(), "v": entry(data_offsets=[32, 56])}),
        bytes(56),
        "do not follow",
    ),
    "overlap": (text({"w": entry(), "v": entry(data_offsets=[20, 44])}), bytes(44), "do not follow"),
    "the same bytes twice": (text({"w": entry(), "v": entry()}), bytes(24), "do not follow"),
    "no elements inside another": (
        text({"w": entry(), "v": entry(shape=[0], data_offsets=[8, 8])}),
        bytes(24),
        "do not follow",
    ),
    "data cut off": (ONE, bytes(23), "outside the file"),
    "no data": (ONE, b"", "outside the file"),
    "data left over": (ONE, bytes(25), "belong to no tensor"),
    "data without tensors": (b"{}", b"x", "belong to no tensor"),
}


@batched("case", MALFORMED)
def test_malformed(case: Any, raw_safetensors: Any, refused: Any) -> None:
    header, data, match, *accepted = case
    path = raw_safetensors(header, data)
    if accepted:
        assert isinstance(safetensors.deserialize(path.read_bytes()), list)
    else:
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize(path.read_bytes())
    refused(path, match)


WHOLE = struct.pack("<Q", len(ONE)) + ONE + bytes(24)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty"),
        (b"{", "JSON"),
        (WHOLE[:7], "not a checkpoint"),
        (WHOLE[:8], "not a checkpoint"),
        (WHOLE[:9], "header is longer than the file"),
        (struct.pack("<Q", len(ONE) + 100) + WHOLE[8:], "header is longer than the file"),
        (struct.pack("<Q", 100_000_001) + WHOLE[8:], "longer than the file"),
        (struct.pack("<Q", 1 << 30) + WHOLE[8:], "longer than the file"),
        (struct.pack("<Q", (1 << 64) - 1) + WHOLE[8:], "header is longer than the file"),
        (struct.pack("<Q", 0) + WHOLE[8:], "not valid JSON"),
        (struct.pack("<Q", 1) + WHOLE[8:], "not valid JSON"),
        (struct.pack("<Q", len(ONE) - 1) + WHOLE[8:], "not valid JSON"),
        (struct.pack("<Q", len(ONE) + 3) + b"\xef\xbb\xbf" + ONE + bytes(24), "not begin with a brace"),
        (struct.pack("<Q", len(ONE) + 1) + b" " + ONE + bytes(24), "not begin with a brace"),
        (struct.pack("<Q", len(ONE) + 2) + b"[" + ONE + b"]" + bytes(24), "not a checkpoint"),
        (struct.pack(">Q", len(ONE)) + WHOLE[8:], "header is longer than the file"),
    ],
)
def test_beginnings(data: bytes, match: str, tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    refused(path, match)


def test_truncated_at_every_byte(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "model.safetensors"
    for end in range(len(WHOLE)):
        path.write_bytes(WHOLE[:end])
        refused(path)
    path.write_bytes(WHOLE)
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]


def test_every_byte_of_the_header_changed_is_read_as_the_library_reads_it_or_refused(
    tmp_path: Path, content: Any
) -> None:
    header = text({"w": entry(), "v": entry(dtype="U8", shape=[3], data_offsets=[24, 27])})
    whole = struct.pack("<Q", len(header)) + header + bytes(range(27))
    path = tmp_path / "model.safetensors"
    read = 0
    for at in range(8 + len(header)):
        for change in (1, 2, 16, 128):
            data = bytearray(whole)
            data[at] ^= change
            path.write_bytes(data)
            try:
                with open_checkpoint(path) as checkpoint:
                    ours = {name: content(info) for name, info in checkpoint.tensors.items()}
            except CheckpointError:
                continue
            assert ours == {name: bytes(found["data"]) for name, found in safetensors.deserialize(bytes(data))}
            read += 1
    assert read  # a changed name, say


def test_many_tensors(raw_safetensors: Any, content: Any) -> None:
    header = {f"layers.{n}.w": entry("U8", [1], [n, n + 1]) for n in range(30_000)}
    with open_checkpoint(raw_safetensors(header, bytes(n % 251 for n in range(30_000)))) as checkpoint:
        assert len(checkpoint.tensors) == 30_000
        assert content(checkpoint.tensors["layers.777.w"]) == bytes([777 % 251])


@pytest.mark.parametrize(
    "name", ["", "\x1b[2J\a", "\0", "../../x", "/etc/passwd", "a\nb", "\u202e", "C:\\x", ".", "x" * 9000]
)
def test_any_text_is_a_name_and_none_a_path(
    name: str, raw_safetensors: Any, tmp_path: Path, content: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = raw_safetensors({name: entry(), f"{name}.in_proj_weight": entry("U8", [6, 1], [24, 30])}, bytes(range(30)))
    before = sorted(tmp_path.rglob("*"))
    with open_checkpoint(path) as checkpoint:
        assert content(checkpoint.tensors[name]) == bytes(range(24))
    for format in ("table", "json", "csv", "markdown"):
        main(["show", str(path), "--format", format])
    assert "\x1b[2J" not in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_container_makes_no_sense(raw_safetensors: Any) -> None:
    with pytest.raises(UsageError, match="no containers"):
        open_checkpoint(raw_safetensors(ONE, bytes(24)), container="model")
    with open_checkpoint(raw_safetensors(ONE, bytes(24))) as checkpoint:
        assert [(c.path, c.num_tensors, c.role) for c in checkpoint.containers] == [("", 1, "model")]


def test_a_config_in_the_metadata_is_kept(tmp_path: Path) -> None:
    """As IgFold saves itself: JSON as the text of a metadata entry."""
    metadata = {
        "format": "pt",
        "config": '{"num_heads": 4}',
        "odd": "{not json",
        "list": "[1]",
        "cut": '{"a": "\\ud800',
    }
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "m.safetensors", metadata=metadata)
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        assert [(config.origin, config.values) for config in checkpoint.configs] == [
            ("checkpoint:config", {"num_heads": 4})
        ]
        assert checkpoint.metadata == metadata


@pytest.mark.parametrize(
    ("size", "code"),
    [(2**63 - 1, Code.SAFETENSORS_SIZE), (2**63, Code.SAFETENSORS_SHAPE), (-1, Code.SAFETENSORS_SHAPE)],
)
def test_sizes_are_numbers_of_63_bits(size: int, code: Code, tmp_path: Path, refused: Any) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert refused(tmp_path / "m.safetensors").code is code
