"""ONNX files in protobuf's wire format, every field of which can be given another value."""

from __future__ import annotations

from collections.abc import Iterable

Value = int | bytes
"""A varint, or the content of a field that has a length."""


def number(value: int) -> bytes:
    """A varint of 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(place: int, value: Value, kind: int | None = None) -> bytes:
    """One field; ``kind`` is the wire type, if it is to be another than that of its value."""
    if isinstance(value, int):
        return number(place << 3 | (kind or 0)) + number(value)
    return number(place << 3 | (2 if kind is None else kind)) + number(len(value)) + value


def message(*fields: tuple[int, Value]) -> bytes:
    """Fields one behind the other."""
    return b"".join(field(place, value) for place, value in fields)


def tensor(name: bytes, sizes: Iterable[int], kind: int, raw: bytes | None, *more: tuple[int, Value]) -> bytes:
    """A TensorProto; without numbers where ``raw`` is None."""
    own: list[tuple[int, Value]] = [(1, size) for size in sizes]
    own += [(2, kind), (8, name)]
    return message(*own, *(() if raw is None else ((9, raw),)), *more)


def node(op: bytes, inputs: Iterable[bytes], outputs: Iterable[bytes], *more: tuple[int, Value]) -> bytes:
    """A NodeProto."""
    return message(*((1, one) for one in inputs), *((2, one) for one in outputs), (4, op), *more)


def entry(key: bytes, value: bytes) -> bytes:
    """A StringStringEntryProto."""
    return message((1, key), (2, value))


def model(graph: bytes, *more: tuple[int, Value], version: int = 8) -> bytes:
    """A ModelProto."""
    return message((1, version), (7, graph), *more)
