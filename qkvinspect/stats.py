"""The streaming kernel: bytes in; out, for every output row, its sum of squares and its non-finite values.

Every packing, head and part is a set of rows, so any norm is a sum over these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from qkvinspect.blocks import Array, blocks, numbers
from qkvinspect.matrix import Matrix, as_matrix
from qkvinspect.model import Orientation, TensorInfo

Progress = Callable[[int], None]
"""Told how many bytes have just been dealt with."""

Scale = Callable[[slice, slice], Array]
"""Gives the scales of some rows and columns."""

_CHUNK = 64  # float32 partial sums this short keep a norm within 1e-6 of float64, whatever the values
_SCALE_BLOCK = 128  # DeepSeek and transformers: one scale for 128 x 128 values
_TINY = 1e-25  # mean square under which float32 squares lose digits


@dataclass(frozen=True, slots=True)
class RowStats:
    """Per output row: sum of squares (float64; inf where a value is not finite) and non-finite counts."""

    squares: NDArray[np.float64]
    nonfinite: NDArray[np.int64]
    nans: NDArray[np.int64]

    def measure(self, rows: Sequence[range]) -> tuple[float, int]:
        """Frobenius norm and non-finite count of some rows; the norm is nan if any value is."""
        squares = sum(float(self.squares[r.start : r.stop : r.step].sum()) for r in rows)
        nonfinite = sum(int(self.nonfinite[r.start : r.stop : r.step].sum()) for r in rows)
        if any(self.nans[r.start : r.stop : r.step].any() for r in rows):
            return float("nan"), nonfinite
        return float(np.sqrt(squares)), nonfinite


def row_stats(
    info: TensorInfo, orientation: Orientation, progress: Progress, *, scale: TensorInfo | None = None
) -> RowStats | None:
    """Stream one tensor; None if its bits have no value of their own (quantised types).

    Args:
        scale: what the values must be multiplied by: a number, one a row, or one a block of rows and columns
            (DeepSeek's weight_scale_inv, 128 x 128).

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if info.dtype.kind == "opaque":
        return None
    matrix = as_matrix(info, orientation)
    squares = np.zeros(matrix.rows)
    nonfinite = np.zeros(matrix.rows, np.int64)
    nans = np.zeros(matrix.rows, np.int64)
    scales = _scales(scale, matrix) if scale is not None else None
    if scale is not None and scales is None:
        return None
    for rows, cols, words in blocks(matrix):
        arrays = numbers(words, info.dtype)
        if scales is not None:
            arrays = [values * scales(rows, cols) for values in arrays]
        for values in arrays:
            squares[rows] += _squares(values)
        (odd,) = np.nonzero(~np.isfinite(squares[rows]))
        if len(odd):
            picked = [values[odd] for values in arrays]
            nonfinite[rows.start + odd] += (~np.logical_and.reduce([np.isfinite(v) for v in picked])).sum(axis=1)
            nans[rows.start + odd] += np.logical_or.reduce([np.isnan(v) for v in picked]).sum(axis=1)
        progress(words.size * words.itemsize)
    return RowStats(squares, nonfinite, nans)


def _scales(info: TensorInfo, matrix: Matrix) -> Scale | None:
    """Gives the scale of every value of a block; None where the scales have a form that is not known."""
    grid = as_matrix(info, "out_in")
    high, wide = _scale_block(matrix.rows, grid.rows), _scale_block(matrix.cols, grid.cols)
    if high is None or wide is None:
        return None
    table = np.zeros((grid.rows, grid.cols))
    for rows, cols, words in blocks(grid):
        table[rows, cols] = numbers(words, info.dtype)[0]

    def at(rows: slice, cols: slice) -> Array:
        down = [row // high for row in range(rows.start, rows.stop)]
        across = [col // wide for col in range(cols.start, cols.stop)]
        return table[down][:, across]

    return at


def _scale_block(size: int, count: int) -> int | None:
    """How many values along one axis share a scale."""
    if count == 1:
        return size
    if count == size:
        return 1
    return _SCALE_BLOCK if count == ceil(size / _SCALE_BLOCK) else None


def _squares(values: Array) -> NDArray[np.float64]:
    """Sum of squares of each row, in float32 where that is exact enough, else in more."""
    whole = values.shape[1] // _CHUNK * _CHUNK
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        chunks = np.ascontiguousarray(values[:, :whole]).reshape(len(values), -1, _CHUNK)
        total = np.einsum("ijk,ijk->ij", chunks, chunks).sum(axis=1, dtype=np.float64)
        total += np.einsum("ij,ij->i", values[:, whole:], values[:, whole:])
        (odd,) = np.nonzero(~np.isfinite(total) | (total < _TINY * values.shape[1]))
        if len(odd) and values.dtype == np.float32:
            wide = values[odd].astype(np.float64)
            total[odd] = np.einsum("ij,ij->i", wide, wide)
    return total
