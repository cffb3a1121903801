"""Bytes that do not lie in the order in which they are written, gathered in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import as_strided

from qkvinspect.checkpoint import BLOCK, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.weights.reading import blocks, read_rows, stored_words
from qkvinspect.weights.strided import Matrix, as_matrix

if TYPE_CHECKING:
    from qkvinspect.export.pieces import OutputTensor

_GATHERED = 4 * BLOCK
"""Bytes gathered at a time: what lies between is read again for each such piece."""


def scattered(matrix: Matrix, rows: range) -> Iterator[bytes]:
    """Some rows of a matrix, row-major."""
    return read_rows(matrix, (rows,), _GATHERED)


def transposed(piece: OutputTensor) -> Iterator[bytes]:
    """[in, out]: some input features of all rows at a time."""
    parts = [as_matrix(run.info, run.orientation).take(run.rows) for run in piece.runs if run.info is not None]
    if piece.dtype.bits < 8:
        raise LayoutError(f"{piece.dtype.name} cannot be transposed: a byte holds several", tensor=piece.name)
    total = sum(part.rows for part in parts)
    step = max(_GATHERED // max(total * piece.dtype.bits // 8, 1), 1)
    for first in range(0, parts[0].cols, step):
        count = min(step, parts[0].cols - first)
        out = np.empty((count, total), stored_words(piece.dtype, piece.dtype.bits))
        place = 0
        for part in parts:
            for rows, cols, words in blocks(part.transposed.take(range(first, first + count)).transposed):
                out[cols, place + rows.start : place + rows.stop] = words.T
            place += part.rows
        yield out.tobytes()


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
