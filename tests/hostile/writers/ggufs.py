"""GGUF files, every field of which can be given another value."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

UINT8, UINT16, UINT32, INT32, FLOAT, BOOL, STRING, ARRAY, UINT64 = 0, 2, 4, 5, 6, 7, 8, 9, 10
_CODES = {UINT8: "B", UINT16: "H", UINT32: "I", INT32: "i", FLOAT: "f", BOOL: "B", UINT64: "Q"}
F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8


@dataclass(frozen=True)
class Value:
    """A value of the metadata: its type, and its bytes but for what ``more`` adds."""

    kind: int
    content: bytes


@dataclass(frozen=True)
class Entry:
    """A tensor of the header; sizes innermost first."""

    name: bytes
    sizes: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Writer:
    """Numbers in one of the two orders of bytes."""

    sign: str = "<"

    def pack(self, codes: str, *values: float) -> bytes:
        return struct.pack(self.sign + codes, *values)

    def text(self, content: bytes, length: int | None = None) -> bytes:
        return self.pack("Q", len(content) if length is None else length) + content

    def scalar(self, kind: int, value: float) -> Value:
        return Value(kind, self.pack(_CODES[kind], value))

    def string(self, content: bytes) -> Value:
        return Value(STRING, self.text(content))

    def array(self, kind: int, items: Sequence[bytes], count: int | None = None) -> Value:
        return Value(ARRAY, self.pack("IQ", kind, len(items) if count is None else count) + b"".join(items))

    def header(
        self,
        values: Sequence[tuple[bytes, Value]],
        entries: Sequence[Entry],
        version: int = 3,
        num_values: int | None = None,
        num_tensors: int | None = None,
    ) -> bytes:
        tensors, keys = (
            len(some) if count is None else count for some, count in ((entries, num_tensors), (values, num_values))
        )
        parts = [b"GGUF", self.pack("IQQ", version, tensors, keys)]
        parts += [self.text(key) + self.pack("I", value.kind) + value.content for key, value in values]
        for entry in entries:
            sizes = self.pack(f"I{len(entry.sizes)}Q", len(entry.sizes), *entry.sizes)
            parts.append(self.text(entry.name) + sizes + self.pack("IQ", entry.kind, entry.offset))
        return b"".join(parts)

    def file(self, header: bytes, data: bytes, alignment: int = 32) -> bytes:
        return header + bytes(-len(header) % alignment) + data
