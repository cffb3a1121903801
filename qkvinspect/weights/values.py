"""Read the numbers of a weight, tile by tile or some rows at once, whether stored plainly or encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from qkvinspect.checkpoint import BLOCK
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.reading import Array, numbers, words_of
from qkvinspect.weights.strided import StridedMatrix
from qkvinspect.weights.tiles import Tile, tiles
from qkvinspect.weights.weight import DecodedMatrix, Matrix

_VALUE = 8
"""Bytes that a decoded value takes at most while it is made."""


@dataclass(frozen=True, slots=True)
class ValueTile:
    """Some rows and columns of a matrix, not yet read.

    Attributes:
        nbytes: what it takes in the file, about.
        read: gives the numbers, float32 or float64 [rows, columns]; two arrays of complex ones.
        stored: the tile as it lies in the file; None where it is decoded.
    """

    rows: slice
    cols: slice
    nbytes: int
    read: Callable[[], list[Array]]
    stored: Tile | None = None

    def read_briefly(self) -> list[Array]:
        """The same, which may lie in memory that is used again when this thread reads more."""
        if self.stored is None:
            return self.read()
        return numbers(words_of(self.stored, self.stored.stored_briefly()), self.stored.matrix.info.dtype)

    def some(self, rows: Array | slice, cols: Array | slice) -> Array:
        """The numbers of some of its rows and columns, or their real parts: no others are made of what was read."""
        tile = self.stored
        if tile is None or _in_values(tile.matrix, tile.matrix.cols) != tile.matrix.cols:  # several lie in one word
            return self.read()[0][rows][:, cols]
        return numbers(np.ascontiguousarray(words_of(tile)[rows][:, cols]), tile.matrix.info.dtype)[0]


def value_tiles(matrix: Matrix, limit: int = BLOCK) -> Iterator[ValueTile]:
    """Cut a matrix into tiles that take about ``limit`` bytes of memory, in the order of the file."""
    if isinstance(matrix, StridedMatrix):
        dtype = matrix.info.dtype
        for tile in tiles(matrix, limit):
            cols = slice(_in_values(matrix, tile.cols.start), _in_values(matrix, tile.cols.stop))
            yield ValueTile(tile.rows, cols, tile.nbytes, lambda tile=tile: numbers(words_of(tile), dtype), tile)
        return
    yield from _decoded_tiles(matrix, limit)


def _decoded_tiles(matrix: DecodedMatrix, limit: int) -> Iterator[ValueTile]:
    share = sum(info.nbytes for info in matrix.encoding.stored) / max(matrix.encoding.shape[0], 1)
    share /= max(matrix.encoding.shape[1], 1)
    for rows, cols in _grid(matrix, max(limit // _VALUE, 1)):
        part = matrix.take(range(matrix.rows)[rows]).transposed.take(range(matrix.cols)[cols]).transposed
        nbytes = int(share * part.rows * part.cols)
        yield ValueTile(rows, cols, nbytes, lambda part=part: [part.decode()])


def _grid(matrix: DecodedMatrix, room: int) -> Iterator[tuple[slice, slice]]:
    """Whole rows, or whole columns where these lie together, as many as fit; parts of one that is too long."""
    long, short = (matrix.rows, matrix.cols) if matrix.by_columns else (matrix.cols, matrix.rows)
    high = max(room // max(long, 1), 1)
    wide = min(long, room)
    for first in range(0, short, high):
        for start in range(0, long, max(wide, 1)):
            sides = slice(first, min(first + high, short)), slice(start, min(start + wide, long))
            yield (sides[1], sides[0]) if matrix.by_columns else sides


def rows_of_values(matrix: Matrix, runs: Iterable[range]) -> Array:
    """The numbers of some rows, in the order given: float32 or float64, or complex, [rows, columns].

    All are held at once: the caller asks for few enough.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    parts = [matrix.take(run) for run in runs]
    found = [whole(part) for part in parts]
    return found[0] if len(found) == 1 else np.concatenate(found) if found else np.zeros((0, columns(matrix)))


def tile_of_values(matrix: Matrix, rows: range, cols: range) -> Array:
    """The numbers of some rows and columns, as ``rows_of_values``: only these are decoded."""
    return rows_of_values(matrix.transposed.take(cols).transposed, [rows])


def whole(matrix: Matrix) -> Array:
    """All numbers of a matrix, as ``rows_of_values``."""
    kept: Array | None = None
    for tile in value_tiles(matrix):
        values = joined(tile.read())
        if values.shape == (matrix.rows, columns(matrix)):
            return values
        if kept is None:
            kept = np.empty((matrix.rows, columns(matrix)), values.dtype)
        kept[tile.rows, tile.cols] = values
    return np.zeros((matrix.rows, columns(matrix)), np.float32) if kept is None else kept


def joined(values: Sequence[Array]) -> Array:
    """Real and imaginary parts as complex numbers; real numbers as they are."""
    return values[0] if len(values) == 1 else values[0] + 1j * values[1]


def columns(matrix: Matrix) -> int:
    """How many numbers a row has."""
    return _in_values(matrix, matrix.cols) if isinstance(matrix, StridedMatrix) else matrix.cols


def _in_values(matrix: StridedMatrix, units: int) -> int:
    dtype = matrix.info.dtype
    return units * matrix.unit * dtype.values // dtype.bits
