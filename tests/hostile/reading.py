"""What must hold for any input: a refusal in one clean line, or the bytes of every tensor."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from math import prod

from qkvinspect import formats
from qkvinspect.checkpoint import ByteSource, TensorInfo
from qkvinspect.errors import LayoutError, QkvInspectError
from qkvinspect.weights.reading import read_rows
from qkvinspect.weights.strided import strided_matrix

MOST = 1 << 20
"""Tensors of more bytes (expanded ones, then) are looked at, not read: a fuzzer has no time for them."""


@dataclass(frozen=True)
class Read:
    """A tensor as it was read; ``content`` is None where it has no rows, or is too large for a test."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes | None
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of an input: tensors and findings, or what the refusal said."""

    tensors: dict[str, Read] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    refusal: str | None = None


def content(info: TensorInfo) -> bytes:
    """All bytes of a tensor, row-major and little-endian."""
    if not info.numel:
        return b""
    matrix = strided_matrix(info, "out_in")
    return b"".join(read_rows(matrix, (range(matrix.rows),)))


def outcome(source: ByteSource) -> Outcome:
    """Open a source and read every tensor.

    Raises:
        AssertionError: the input was neither refused cleanly nor read consistently.
        Exception: whatever the reader let through; any is a defect.
    """
    try:
        with formats._open(source, None, {}) as checkpoint:
            tensors = {name: _read(info) for name, info in checkpoint.tensors.items()}
            return Outcome(tensors, tuple(clean(finding.message) for finding in checkpoint.findings))
    except QkvInspectError as error:
        return Outcome(refusal=clean(str(error)))


def _read(info: TensorInfo) -> Read:
    data = None
    if info.nbytes <= MOST and all(size <= MOST for size in info.shape):
        try:
            data = content(info)
        except LayoutError as error:  # a view with no form [out, in]
            clean(str(error))
        else:
            assert len(data) == (prod(info.shape) * info.dtype.bits + 7) // 8, "a tensor's bytes are not its shape's"
    return Read(info.dtype.name, info.shape, data, info.keys)


def clean(line: str) -> str:
    """Hold a message to what it must be: one line that cannot act on a terminal."""
    bad = [char for char in line if unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs") or char in _BIDI]
    assert line, "a message says nothing"
    assert not bad, f"a message holds {[f'U+{ord(char):04X}' for char in bad]}: {line!r}"
    return line


_BIDI = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)))
