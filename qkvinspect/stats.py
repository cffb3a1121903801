"""The streaming kernel: bytes in; out, for every output row, its sum of squares and its non-finite values.

Every packing, head and part is a set of rows, so any norm is a sum over these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkvinspect.blocks import Array, blocks, numbers
from qkvinspect.matrix import as_matrix
from qkvinspect.model import Orientation, TensorInfo

Progress = Callable[[int], None]
"""Told how many bytes have just been dealt with."""

_CHUNK = 64  # float32 partial sums this short keep a norm within 1e-6 of float64, whatever the values
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


def row_stats(info: TensorInfo, orientation: Orientation, progress: Progress) -> RowStats | None:
    """Stream one tensor; None if its bits have no value of their own (quantised types).

    Raises:
        CheckpointError: the bytes cannot be read.

    """
    if info.dtype.kind == "opaque":
        return None
    matrix = as_matrix(info, orientation)
    squares = np.zeros(matrix.rows)
    nonfinite = np.zeros(matrix.rows, np.int64)
    nans = np.zeros(matrix.rows, np.int64)
    for rows, _, words in blocks(matrix):
        arrays = numbers(words, info.dtype)
        for values in arrays:
            squares[rows] += _squares(values)
        (odd,) = np.nonzero(~np.isfinite(squares[rows]))
        if len(odd):
            picked = [values[odd] for values in arrays]
            nonfinite[rows.start + odd] += (~np.logical_and.reduce([np.isfinite(v) for v in picked])).sum(axis=1)
            nans[rows.start + odd] += np.logical_or.reduce([np.isnan(v) for v in picked]).sum(axis=1)
        progress(words.size * words.itemsize)
    return RowStats(squares, nonfinite, nans)


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
