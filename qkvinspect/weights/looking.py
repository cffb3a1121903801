"""Pieces of weights that numpy sums: every dtype, every form, with a close look at what is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qkvinspect.weights.reading import Array, numbers, words_of
from qkvinspect.weights.sums_of_squares import row_squares, value_squares
from qkvinspect.weights.tiles import Tile
from qkvinspect.weights.values import ValueTile

if TYPE_CHECKING:
    from numpy.typing import NDArray

Odd = Mapping[int, tuple[int, int]]
"""Of each row that has values which are not finite, how many these are, and how many are NaN."""


def looked_at(tile: Tile | ValueTile) -> tuple[memoryview[float], Odd]:
    """The sum of squares of each row of a piece, float64, and what is not finite.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if isinstance(tile, Tile):
        words, dtype = words_of(tile, tile.stored_briefly()), tile.matrix.info.dtype
        squares, odd = row_squares(words, dtype)
        values = numbers(words[odd], dtype) if len(odd) else []
    else:
        decoded = tile.read()
        squares, odd = value_squares(decoded)
        values = [some[odd] for some in decoded] if len(odd) else []
    counts: Odd = _carefully(squares, odd, values) if values else {}
    return memoryview(np.ascontiguousarray(squares, np.float64).data), counts


def _carefully(squares: NDArray[np.float64], odd: NDArray[np.intp], values: Sequence[Array]) -> Odd:
    """Sum rows anew whose sums must be made with care; count in those what is not finite."""
    with np.errstate(all="ignore"):  # signalling NaN, and float64 squares beyond float64
        wide = [found.astype(np.float64) for found in values]
        squares[odd] = sum(np.einsum("ij,ij->i", found, found) for found in wide)
    nonfinite = ~np.logical_and.reduce([np.isfinite(found) for found in wide])
    nan = np.logical_or.reduce([np.isnan(found) for found in wide])
    counts = zip(odd.tolist(), nonfinite.sum(axis=1).tolist(), nan.sum(axis=1).tolist(), strict=True)
    return {row: (count, nans) for row, count, nans in counts if count}
