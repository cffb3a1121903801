"""Rows of a weight in the order (head, dim), whatever its packing, orientation, strides and dtype."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from qkvinspect.checkpoint import Region
from qkvinspect.dtypes import DTYPES, DType
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.weights.reading import Array, gather, numbers
from qkvinspect.weights.strided import StridedMatrix
from qkvinspect.weights.values import columns, rows_of_values
from qkvinspect.weights.weight import Matrix, Weight

TILE = 1 << 18
"""Values compared at a time."""

_GRAIN = 24  # values that fill whole bytes in every dtype: four 6-bit floats are 3 bytes
_SQUARE = 512  # rows of a tile where one side is row-major and the other column-major


class OneRun(NamedTuple):
    """Where rows lie that are one run of bytes, little-endian.

    Attributes:
        turned: whether the bytes follow each other column by column.
        start: of the first, in the storage.
    """

    turned: bool
    region: Region
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Lines:
    """Some rows of a weight.

    Attributes:
        runs: the rows, in the order in which they are compared.
        flipped: whether these rows are the columns of what people call the matrix (the output projection).
    """

    weight: Weight
    matrix: Matrix
    runs: tuple[range, ...]
    flipped: bool = False

    @property
    def dtype(self) -> DType:
        """The dtype in which values are compared; decoded ones are float64."""
        return self.matrix.info.dtype if isinstance(self.matrix, StridedMatrix) else DTYPES["float64"]

    @property
    def made_in(self) -> DType:
        """The dtype that the values have where the model has them: that of decoded ones if nothing was rounded."""
        encoding = self.weight.encoding
        return self.dtype if encoding is None else encoding.computed_in or self.dtype

    @property
    def exact_in(self) -> DType:
        """The dtype to which values are rounded that are compared with these.

        Decoded ones that are only gathered, of several tensors or of more axes, are numbers of their stored dtype.
        """
        encoding = self.weight.encoding
        if encoding is None or encoding.computed_in is None:
            return self.dtype
        if any(info.dtype != encoding.computed_in for info in encoding.stored):
            return self.dtype
        return self.dtype if encoding.slack(range(1), range(1)) is not None else encoding.computed_in

    @property
    def kind(self) -> str:
        """The stored dtype or encoding, for people."""
        return self.weight.dtype.name

    @property
    def comparable(self) -> bool:
        """Whether the values are numbers, and not only bits."""
        return not self.weight.why and self.dtype.kind != "opaque"

    @property
    def is_real(self) -> bool:
        """Whether each value is one number; ``values`` gives two of a complex one."""
        return self.comparable and self.dtype.kind != "complex"

    @property
    def rows(self) -> int:
        return sum(map(len, self.runs))

    @property
    def cols(self) -> int:
        """Values in a row."""
        return columns(self.matrix)

    @property
    def vector(self) -> bool:
        """Whether it is a bias, or another tensor of one axis."""
        return len(self.weight.shape) < 2

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in], or as stored where that is not known; [out] of a bias."""
        if self.vector:
            return (self.rows,)
        return (self.cols, self.rows) if self.flipped else (self.rows, self.cols)

    @property
    def across(self) -> bool:
        """Whether neighbours in the file belong to different rows."""
        return self.matrix.by_columns

    @property
    def nbytes(self) -> int:
        if isinstance(self.matrix, StridedMatrix):
            return self.rows * self.matrix.cols * self.matrix.unit // 8
        return self.weight.nbytes * self.rows // max(self.matrix.rows, 1)

    @property
    def one_run(self) -> OneRun | None:
        """Where all of the rows lie, if they are stored as one run; None if not."""
        matrix = self.matrix
        if not isinstance(matrix, StridedMatrix) or len(self.runs) != 1 or self.runs[0].step != 1:
            return None
        (run,) = self.runs
        turned = not matrix.plain
        if turned and (run != range(matrix.rows) or not matrix.transposed.plain):
            return None
        size = matrix.unit // 8
        start = matrix.offset + (0 if turned else run.start * matrix.row_stride)
        return OneRun(turned, matrix.info.region, start * size, len(run) * matrix.cols * size)

    def words(self, rows: range, cols: range) -> Array:
        """The content of a tile, [rows, columns]: the stored words, or decoded numbers."""
        if isinstance(self.matrix, StridedMatrix):
            if cols == range(self.cols):
                return gather(self.matrix, self._stored(rows))
            width = self.dtype.bits // self.dtype.values
            units = range(cols.start * width // self.matrix.unit, cols.stop * width // self.matrix.unit)
            return gather(self.matrix.transposed.take(units).transposed, self._stored(rows))
        return rows_of_values(self.matrix.transposed.take(cols).transposed, self._stored(rows)).astype(np.float64)

    def values(self, words: Array) -> Array:
        """The content of a tile as numbers; of complex ones the real parts, then the imaginary ones."""
        if not isinstance(self.matrix, StridedMatrix):
            return words
        found = numbers(words, self.dtype)
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def slack(self, rows: range, cols: range) -> Array | None:
        """By how much quantisation may have changed each number of a tile; None where nothing was quantised."""
        if isinstance(self.matrix, StridedMatrix):
            return None
        tile = self.matrix.transposed.take(cols).transposed
        found = [slack for run in self._stored(rows) if (slack := tile.take(run).slack()) is not None]
        return np.concatenate(found) if found else None

    def _stored(self, rows: range) -> Iterator[range]:
        """The stored rows behind some of the rows."""
        for run, end in zip(self.runs, accumulate(map(len, self.runs)), strict=True):
            begin = end - len(run)
            low, high = max(rows.start, begin), min(rows.stop, end)
            if low < high:
                yield run[low - begin : high - begin]


def tiles(*sides: Lines) -> Iterator[tuple[range, range]]:
    """Cut rows and columns into tiles that neither side has to read many useless bytes for."""
    rows, cols = sides[0].rows, sides[0].cols
    across = {side.across for side in sides}
    high = TILE if across == {True} else _SQUARE if len(across) == 2 else max(TILE // max(cols, 1), 1)
    high = max(min(high, rows), 1)
    wide = max(TILE // high // _GRAIN, 1) * _GRAIN
    for row in range(0, rows, high):
        for col in range(0, cols, wide):
            yield range(row, min(row + high, rows)), range(col, min(col + wide, cols))


def head_runs(rows: int, heads: int) -> Sequence[range]:
    """Runs of equally many rows, one for each head; empty where the rows cannot be divided so."""
    if heads < 1 or rows % heads:
        return ()
    width = rows // heads
    return [range(head * width, (head + 1) * width) for head in range(heads)]


def flip(lines: Lines) -> Lines:
    """The columns of the matrix as lines; ``lines`` must hold the whole matrix."""
    return replace(lines, matrix=lines.matrix.transposed, runs=(range(lines.matrix.cols),), flipped=not lines.flipped)
