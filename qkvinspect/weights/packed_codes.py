"""Decode numbers that are packed as codes of a few bits.

Every packing that is decoded here is a stream of bits, the lowest bits of the first byte first, in which code follows
code: GPTQ, AWQ, compressed-tensors, MLX. bitsandbytes has the high half of a byte first. What a code stands for is
said by a table, so that no code is turned into a number twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil, gcd

import numpy as np

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.weights.reading import Array, gather
from qkvinspect.weights.strided import StridedMatrix, strided_matrix

_TOGETHER = {8: np.float32, 4: np.complex64, 2: np.complex128, 1: np.dtype((np.void, 32))}
"""Tables with the numbers of all codes of a byte."""

_SPAN = 1 << 20  # values that are decoded at once where only some of them are wanted
_AT_ONCE = 1 << 16  # bytes that are looked up at a time: what is made of them stays in the processor's cache

Operation = Callable[..., Array]
"""A ufunc that writes into ``out``."""


def spanned(read: Callable[[range, range], Array], rows: range, cols: range) -> Array:
    """Have neighbouring columns read, and take those that are wanted: float32 or float64 [rows, columns].

    Args:
        read: gives some rows of columns without gaps, of which there is at least one.
    """
    if not len(rows) or not len(cols):
        return np.zeros((len(rows), len(cols)), np.float32)
    step = abs(cols.step)
    with np.errstate(all="ignore"):  # nothing in a file is trusted: scales may be infinite, NaN, or too large
        if step == 1 and cols.step > 0:
            return read(rows, cols)
        many = max(_SPAN // (step * len(rows)), 1)
        parts = (cols[start : start + many] for start in range(0, len(cols), many))
        return np.concatenate([_taken(read, rows, part) for part in parts], axis=1)


def _taken(read: Callable[[range, range], Array], rows: range, cols: range) -> Array:
    first, last = min(cols[0], cols[-1]), max(cols[0], cols[-1])
    found = read(rows, range(first, last + 1))[:, :: abs(cols.step)]
    return found if cols.step > 0 else found[:, ::-1]


def packed_numbers(
    matrix: StridedMatrix, bits: int, rows: range, cols: range, table: Array, *, high_first: bool = False
) -> Array:
    """What the codes of some rows and columns stand for: float32 [rows, columns].

    Args:
        matrix: the stored words; each of its rows is a stream of bits.
        bits: of one code, 1 to 8.
        cols: without gaps.
        table: the number of each code, float32.
        high_first: whether the first code of a byte is in its highest bits.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    whole = matrix.unit // gcd(matrix.unit, bits)  # codes that fill whole words
    start = cols.start // whole * whole
    words = range(start * bits // matrix.unit, ceil(cols.stop * bits / matrix.unit))
    found = numbers_in_bytes(stored_bytes(matrix, rows, words), bits, table, high_first=high_first)
    return found[:, cols.start - start : cols.stop - start]


def stored_bytes(matrix: StridedMatrix, rows: range, words: range) -> Array:
    """The bytes of some words of some rows as a little-endian file has them: uint8 [rows, bytes]."""
    found = gather(matrix.transposed.take(words).transposed, [rows])
    return np.ascontiguousarray(found, found.dtype.newbyteorder("<")).view(np.uint8)


def numbers_in_bytes(data: Array, bits: int, table: Array, *, high_first: bool = False) -> Array:
    """What all codes in rows of bytes stand for: float32 [rows, codes].

    Args:
        data: uint8 [rows, bytes].
    """
    if 8 % bits:
        data, bits = codes_in_bytes(data, bits), 8
    return _looked_up(data, _byte_table(bits, table.tobytes(), high_first))


def codes_in_bytes(data: Array, bits: int) -> Array:
    """All codes in rows of bytes, the lowest bits first: uint8 [rows, codes]; what is left over is left out."""
    rows, size = data.shape
    blocks = ceil(size / bits)  # so many bytes hold eight codes
    padded = np.zeros((rows, blocks * bits + 1), np.uint8)
    padded[:, :size] = data
    found = np.empty((rows, blocks, 8), np.uint8)
    for code in range(8):
        byte, shift = divmod(code * bits, 8)
        here = padded[:, byte : byte + blocks * bits : bits]
        found[:, :, code] = here >> shift
        if shift + bits > 8:
            found[:, :, code] |= padded[:, byte + 1 : byte + 1 + blocks * bits : bits] << (8 - shift)
    found &= (1 << bits) - 1
    return found.reshape(rows, -1)[:, : size * 8 // bits]


def _looked_up(data: Array, table: Array) -> Array:
    """Several numbers for each byte, in one step."""
    flat = np.ascontiguousarray(data).reshape(-1)
    found = np.empty(flat.size, table.dtype)
    for start in range(0, flat.size, _AT_ONCE):
        np.take(table, flat[start : start + _AT_ONCE], out=found[start : start + _AT_ONCE], mode="wrap")
    return found.view(np.float32).reshape(len(data), -1)


@lru_cache(32)
def _byte_table(bits: int, table: bytes, high_first: bool) -> Array:
    """The numbers of all codes of each of the 256 bytes, as elements that numpy copies whole."""
    values = np.frombuffer(table, np.float32)
    shifts = np.arange(0, 8, bits)
    codes = np.arange(256)[:, None] >> (shifts[::-1] if high_first else shifts) & ((1 << bits) - 1)
    found = np.ascontiguousarray(values[np.minimum(codes, len(values) - 1)])
    return found.view(_TOGETHER[bits]).ravel()


def by_groups(operation: Operation, values: Array, start: int, size: int, table: Array) -> None:
    """Apply to each value what belongs to its group of neighbouring columns, in place.

    Args:
        values: [rows, columns]; its first column is number ``start`` of the whole.
        size: columns in a group.
        table: [rows or 1, groups]; its first is that of the first column.
    """
    count = values.shape[1]
    head = min(-start % size, count)
    if head:
        operation(values[:, :head], table[:, :1], out=values[:, :head])
        table = table[:, 1:]
    groups = (count - head) // size
    if groups:
        whole = values[:, head : head + groups * size].reshape(len(values), groups, size)
        operation(whole, table[:, :groups, None], out=whole)
    if head + groups * size < count:
        rest = values[:, head + groups * size :]
        operation(rest, table[:, groups : groups + 1], out=rest)


def groups_of(cols: range, size: int) -> range:
    """The groups that columns without gaps lie in."""
    return range(cols.start // size, (cols.stop - 1) // size + 1)


def stepwise(bits: int) -> Array:
    """Codes that stand for themselves."""
    return np.arange(1 << bits, dtype=np.float32)


def by_rows(info: TensorInfo) -> StridedMatrix:
    """A stored tensor as a matrix of its words: the first axis, and all others as one."""
    return strided_matrix(info, "out_in")
