"""Pickles opcode by opcode. Nothing here calls pickle.dumps, so nothing keeps them well-formed.

Every function gives the bytes that leave one value on the stack, so that they nest as the values do.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress

MARK, STOP, NONE, TRUE, FALSE, EMPTY_TUPLE = b"(", b".", b"N", b"\x88", b"\x89", b")"


def whole(value: bytes, protocol: int = 2) -> bytes:
    """A pickle of one value."""
    return bytes([0x80, protocol]) + value + STOP


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """The shortest form that protocol 2 has."""
    for code, layout, low, high in (("K", "<B", 0, 0xFF), ("M", "<H", 0, 0xFFFF), ("J", "<i", -(2**31), 2**31 - 1)):
        if low <= value <= high:
            return code.encode() + struct.pack(layout, value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def real(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def name(module: str, attribute: str) -> bytes:
    """A class or function."""
    return f"c{module}\n{attribute}\n".encode("utf-8", "surrogatepass")


def row(*items: bytes) -> bytes:
    """A tuple."""
    short = {0: EMPTY_TUPLE, 1: b"\x85", 2: b"\x86", 3: b"\x87"}
    if len(items) in short:
        return b"".join(items) + short[len(items)]
    return MARK + b"".join(items) + b"t"


def numbers(values: Sequence[int]) -> bytes:
    return row(*map(number, values))


def items(*values: bytes) -> bytes:
    """A list."""
    return b"](" + b"".join(values) + b"e"


def mapping(entries: Mapping[bytes, bytes] | Sequence[tuple[bytes, bytes]], empty: bytes = b"}") -> bytes:
    """A dict; ``empty`` may leave something else on the stack that entries are set on."""
    pairs = entries.items() if isinstance(entries, Mapping) else entries
    return empty + MARK + b"".join(key + value for key, value in pairs) + b"u"


def named(entries: Mapping[str, bytes]) -> bytes:
    """A dict with text for keys: what a state_dict is."""
    return mapping({text(key): value for key, value in entries.items()})


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + row(*arguments) + b"R"


def ordered() -> bytes:
    """An empty OrderedDict."""
    return call(name("collections", "OrderedDict"))


def storage(
    key: str,
    numel: int,
    kind: str = "FloatStorage",
    location: str = "cpu",
    view: bytes = b"",
    module: str = "torch",
) -> bytes:
    """A persistent id; ``view`` is the sixth field, which only the legacy format has."""
    fields = (text("storage"), name(module, kind), text(key), text(location), number(numel))
    return row(*fields, *([view] if view else [])) + b"Q"


def tensor(place: bytes, offset: int, size: Sequence[int], stride: Sequence[int], *more: bytes) -> bytes:
    """A call of _rebuild_tensor_v2 on a storage."""
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        place,
        number(offset),
        numbers(size),
        numbers(stride),
        FALSE,
        ordered(),
        *more,
    )


def split(data: bytes) -> list[bytes]:
    """A pickle as its opcodes, each with its argument; what cannot be told apart is left in one piece at the end."""
    places = [0]
    with suppress(Exception):  # pickletools raises whatever its parts do
        places.extend(position for _, _, position in pickletools.genops(data) if position)
    return [data[start:end] for start, end in zip(places, [*places[1:], len(data)], strict=True)]
