"""Read tensors piece by piece, in bounded memory, with any strides and byte order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from qkvinspect.checkpoint import BLOCK, ByteOrder
from qkvinspect.dtypes import DTYPES, DType
from qkvinspect.weights.strided import StridedMatrix
from qkvinspect.weights.tiles import Tile, tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:
    Array = np.ndarray  # what describes arrays takes a fifth of the time that numpy takes to import

_WORDS = {8: "u1", 16: "u2", 32: "u4", 64: "u8"}


def keep_dropped_memory() -> None:
    """Have memory of up to 31 MiB kept where it is dropped, as glibc does once it has seen so much dropped.

    Else it goes back to the system each time, which clears it anew: half of the time of a small sample, and a quarter
    of that of ``analyze``.
    """
    np.empty(31 << 20, np.uint8)


def blocks(matrix: StridedMatrix, limit: int = BLOCK) -> Iterator[tuple[slice, slice, Array]]:
    """Read a matrix in pieces of about ``limit`` bytes, in the order of the file.

    Yields:
        rows, columns, and the stored words there: unsigned integers of the unit's width, or complex
        numbers, in the machine's byte order, of shape [rows, columns].
    """
    for span in tiles(matrix, limit):
        yield span.rows, span.cols, words_of(span)


def words_of(tile: Tile, data: bytes | memoryview | None = None) -> Array:
    """The stored words of a piece, [rows, columns].

    Args:
        data: what is stored there, where it was read.
    """
    size = tile.matrix.unit // 8
    steps = tuple(step * size for step in tile.strides)
    words = np.ndarray(tile.shape, _word(tile.matrix), tile.stored() if data is None else data, 0, steps)
    words = words if words.dtype.isnative else words.astype(words.dtype.newbyteorder("="))
    return words.T if tile.across else words


def _word(matrix: StridedMatrix) -> np.dtype[Any]:
    return stored_words(matrix.info.dtype, matrix.unit, matrix.info.byteorder)


def stored_words(dtype: DType, unit: int, byteorder: ByteOrder = "little") -> np.dtype[Any]:
    """The unsigned integers, of ``unit`` bits, that ``blocks`` yields and ``read_rows`` joins."""
    order = "<" if byteorder == "little" else ">"
    if dtype.kind == "complex":
        half = f"{order}u{dtype.bits // 16}"
        return np.dtype([("real", half), ("imag", half)])
    return np.dtype(order + _WORDS[unit])


def numbers(words: Array, dtype: DType) -> list[Array]:
    """Turn stored words into float32 or float64 of the same values; complex numbers give two arrays.

    Args:
        words: as ``blocks`` yields them, [rows, columns].
    """
    if dtype.kind == "complex":
        half = DTYPES[{128: "float64", 64: "float32", 32: "float16"}[dtype.bits]]
        return [numbers(words[part], half)[0] for part in ("real", "imag")]
    if dtype.mini is not None:
        if dtype.bits == 16:  # bfloat16 is the upper half of a float32
            return [(words.astype(np.uint32) << 16).view(np.float32)]
        return [_mini_table(dtype)[_codes(words, dtype)]]
    match dtype.kind:
        case "float":
            values = words.view(f"f{dtype.bits // 8}")
            with np.errstate(invalid="ignore"):  # signalling NaN
                return [values.astype(np.float32) if dtype.bits == 16 else values]
        case "int":
            return [words.view(f"i{dtype.bits // 8}").astype(np.float64)]
        case _:
            return [words.astype(np.float64)]


def _codes(words: Array, dtype: DType) -> Array:
    """The bit patterns of mini floats: one a byte, or several packed, the lowest bits first."""
    width = 1 + dtype.mini.exponent + dtype.mini.mantissa if dtype.mini else 8
    if width >= 8:
        return words
    bits = np.unpackbits(np.ascontiguousarray(words), axis=1, bitorder="little")
    grouped = bits.reshape(len(words), -1, width)
    return grouped @ (1 << np.arange(width, dtype=np.uint8))


def _mini_table(dtype: DType) -> Array:
    """The float32 value of every bit pattern of a float of at most 8 bits."""
    mini = dtype.mini
    assert mini is not None
    codes = np.arange(1 << min(8, 1 + mini.exponent + mini.mantissa), dtype=np.int64)
    if mini.specials == "e8m0":
        values = np.exp2(codes - float(mini.bias))
        values[-1] = np.nan
        return values.astype(np.float32)
    mantissa = codes & ((1 << mini.mantissa) - 1)
    exponent = (codes >> mini.mantissa) & ((1 << mini.exponent) - 1)
    sign = np.where(codes >> (mini.mantissa + mini.exponent), -1.0, 1.0)
    step = 2.0**-mini.mantissa
    fraction = np.where(exponent == 0, mantissa * step, 1 + mantissa * step)
    values = sign * fraction * np.exp2(np.maximum(exponent, 1) - float(mini.bias))
    top = exponent == (1 << mini.exponent) - 1
    match mini.specials:
        case "ieee":
            values[top] = np.where(mantissa[top] == 0, sign[top] * np.inf, np.nan)
        case "fn":
            values[top & (mantissa == (1 << mini.mantissa) - 1)] = np.nan
        case "fnuz":
            values[(sign < 0) & (exponent == 0) & (mantissa == 0)] = np.nan
        case _:
            pass
    return values.astype(np.float32)


def half_steps(values: Array, dtype: DType) -> Array:
    """Half the distance of each value from the farther of its neighbours in a float of at most 8 bits.

    Args:
        values: numbers that the dtype holds.

    Returns:
        float64, of the same form. The largest and the smallest number have one neighbour: quantisers choose scales by
        which the largest value becomes the largest code, so that what lies much beyond it was not rounded.
    """
    table = _mini_table(dtype)
    ordered = np.unique(table[np.isfinite(table)]).astype(np.float64)
    gaps = np.pad(np.diff(ordered), 1, mode="edge")
    steps = np.maximum(gaps[:-1], gaps[1:]) / 2
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return steps[places]


def read_rows(matrix: StridedMatrix, rows: Iterable[range], limit: int = BLOCK) -> Iterator[bytes]:
    """The bytes of some rows, row-major and little-endian, in pieces of about ``limit`` bytes."""
    row_bytes = matrix.cols * matrix.unit // 8
    if not matrix.cols:  # of which a file may say that there are 2^62
        return
    step = max(limit // max(row_bytes, 1), 1)
    for run in rows:
        for start in range(0, len(run), step):
            yield _gather(matrix.take(run[start : start + step]))


def gather(matrix: StridedMatrix, rows: Iterable[range]) -> Array:
    """The stored words of some rows, in the order given: [rows, columns], as ``blocks`` yields them.

    All are held at once: the caller asks for few enough.
    """
    pieces = [matrix.take(run) for run in rows]
    if len(pieces) == 1 and len(found := list(tiles(pieces[0], BLOCK))) == 1:  # as most small ones are
        return words_of(found[0]).copy()
    out = np.empty((sum(piece.rows for piece in pieces), matrix.cols), _word(matrix).newbyteorder("="))
    start = 0
    for piece in pieces:
        for down, across, words in blocks(piece):
            out[start + down.start : start + down.stop, across] = words
        start += piece.rows
    return out


def _gather(matrix: StridedMatrix) -> bytes:
    if matrix.plain:
        size = matrix.unit // 8
        return matrix.info.region.read(matrix.offset * size, matrix.rows * matrix.cols * size)
    out = np.empty((matrix.rows, matrix.cols), _word(matrix).newbyteorder("<"))
    for rows, cols, words in blocks(matrix):
        out[rows, cols] = words
    return out.tobytes()
