"""Gather bytes that are not stored in the order in which they are written, in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from qkvinspect.checkpoint import BLOCK, TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.weights.reading import Array, blocks, read_rows, stored_words
from qkvinspect.weights.rounding import as_bytes
from qkvinspect.weights.strided import StridedMatrix
from qkvinspect.weights.values import value_tiles, whole
from qkvinspect.weights.weight import DecodedMatrix, Matrix

_GATHERED = 4 * BLOCK
"""Bytes gathered at a time: what lies between is read again for each such piece."""


def scattered(matrix: StridedMatrix) -> Iterator[bytes]:
    """All rows of a matrix, row-major."""
    return read_rows(matrix, (range(matrix.rows),), _GATHERED)


def decoded(matrix: DecodedMatrix, dtype: DType) -> Iterator[bytes]:
    """The numbers of all rows, row-major, rounded to a dtype."""
    step = max(_GATHERED // 8 // max(matrix.cols, 1), 1)
    for first in range(0, matrix.rows, step):
        yield as_bytes(whole(matrix.take(range(first, min(first + step, matrix.rows)))), dtype)


def transposed(parts: Sequence[Matrix], dtype: DType, name: str) -> Iterator[bytes]:
    """The rows of several matrices as one tensor [in, out]: some input features of all rows at a time.

    Raises:
        LayoutError: a byte holds several numbers.
    """
    if dtype.bits < 8:
        raise LayoutError(f"{dtype.name} cannot be transposed: a byte holds several", tensor=name)
    total = sum(part.rows for part in parts)
    step = max(_GATHERED // max(total * dtype.bits // 8, 1), 1)
    for first in range(0, parts[0].cols, step):
        count = min(step, parts[0].cols - first)
        out = np.empty((count, total), stored_words(dtype, dtype.bits))
        place = 0
        for part in parts:
            for rows, cols, words in _words(part.transposed.take(range(first, first + count)).transposed, dtype):
                out[cols, place + rows.start : place + rows.stop] = words.T
            place += part.rows
        yield out.tobytes()


def _words(matrix: Matrix, dtype: DType) -> Iterator[tuple[slice, slice, Array]]:
    """The words to write of some rows and columns at a time."""
    if isinstance(matrix, StridedMatrix):
        yield from blocks(matrix)
        return
    for tile in value_tiles(matrix):
        values = tile.read()[0]
        words = np.frombuffer(as_bytes(values, dtype), stored_words(dtype, dtype.bits))
        yield tile.rows, tile.cols, words.reshape(values.shape)


def strided(info: TensorInfo, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Iterator[bytes]:
    """A view of any strides: halved until a piece and what lies between its elements fit in memory."""
    size = info.dtype.bits // 8
    span = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1
    if max(span, prod(shape)) * size <= _GATHERED:
        words = np.frombuffer(
            info.region.read(offset * size, span * size), stored_words(info.dtype, info.dtype.bits, info.byteorder)
        )
        view = as_strided(words, shape, tuple(step * size for step in strides), writeable=False)
        yield view.astype(stored_words(info.dtype, info.dtype.bits)).tobytes()
    elif shape[0] == 1:
        yield from strided(info, shape[1:], strides[1:], offset)
    else:
        half = shape[0] // 2
        yield from strided(info, (half, *shape[1:]), strides, offset)
        yield from strided(info, (shape[0] - half, *shape[1:]), strides, offset + half * strides[0])
