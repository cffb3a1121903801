"""Some rows of the stored tensors of a layer, as few bytes read for them as can be."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from qkvinspect.checkpoint import BLOCK, Orientation
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.sources.briefly import AT_ONCE, is_filling
from qkvinspect.weights.reading import Array, numbers, stored_words
from qkvinspect.weights.strided import StridedMatrix
from qkvinspect.weights.values import value_tiles
from qkvinspect.weights.weight import Matrix, Weight

MAX_COLUMNS = 2048
"""Columns that are looked at of each row."""


_AHEAD = 16 << 10
"""Bytes that are read as quickly as two rows by themselves."""


@dataclass(frozen=True, slots=True)
class Bias:
    """Which entries of a bias tensor belong to which rows of a weight, run by run."""

    weight: Weight
    rows: tuple[range, ...]
    entries: tuple[range, ...]


Lying = tuple[Weight, Orientation, tuple[Bias, ...]]
"""A weight, its orientation, and its biases."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The stored tensors of one layer.

    Attributes:
        weights: with how they lie and their biases; their rows, one weight after the other, are what a
            hypothesis divides.
        out: the output projection, whose columns are tied to V's rows.
    """

    layer: str
    weights: tuple[Lying, ...]
    out: tuple[Weight, Orientation] | None = None

    @property
    def key(self) -> Hashable:
        """The same for all hypotheses that look at the same numbers of it."""
        weights = tuple(
            (weight.name, orientation, tuple((one.weight.name, one.rows, one.entries) for one in biases))
            for weight, orientation, biases in self.weights
        )
        return self.layer, weights, self.out and (self.out[0].name, self.out[1])

    @property
    def rows(self) -> tuple[int, ...]:
        """The number of rows of each weight."""
        return tuple(weight.as_shape(orientation)[0] for weight, orientation, _ in self.weights)


def read(
    weight: Weight, orientation: Orientation, stride: int, *, runs: Sequence[range] = (), columns: bool = False
) -> Array | None:
    """Every ``stride``-th row (or column) and a share of the other axis: float32 [sampled, others].

    Args:
        runs: of the rows that the stride leaves, those that are read; all if there are none.
    """
    if weight.no_values or (weight.encoding is None and _several_to_a_byte(weight.dtype)):
        return None
    try:
        matrix = weight.as_matrix(orientation)
    except LayoutError:
        return None
    matrix = matrix.transposed if columns else matrix
    if not matrix.rows or not matrix.cols:
        return None
    if runs:
        return np.concatenate([_sampled(matrix.take(_before(run, stride)), stride) for run in runs])
    return _sampled(matrix, stride)


def _before(run: range, stride: int) -> range:
    """The rows of which a stride leaves a run."""
    return range(run.start * stride, run.stop * stride)


def _sampled(matrix: Matrix, stride: int) -> Array:
    thin = -(-matrix.cols // MAX_COLUMNS)
    if not matrix.by_columns or matrix.rows == 1:
        return _lines(matrix, stride, thin)
    return np.ascontiguousarray(_lines(matrix.transposed, thin, stride).T)


def _several_to_a_byte(dtype: DType) -> bool:
    mini = dtype.mini
    return dtype.kind != "float" or (mini is not None and 1 + mini.exponent + mini.mantissa < 8)


def _lines(matrix: Matrix, step: int, thin: int) -> Array:
    """Every ``step``-th row of a matrix whose rows lie together in the file, and every ``thin``-th value of each.

    Rows that lie near each other on this machine are read together: the system reads ahead anyway.
    """
    wanted: list[Matrix] = [matrix.take(range(0, matrix.rows, step))]
    if step > 1 and not (isinstance(matrix, StridedMatrix) and _near(matrix, step)):
        if (found := _one_by_one(wanted[0])) is not None:
            return found[:, ::thin]
        wanted = [matrix.take(range(row, row + 1)) for row in range(0, matrix.rows, step)]
    values = np.empty((sum(part.rows for part in wanted), -(-matrix.cols // thin)), np.float32)
    start = 0
    for part in wanted:
        for tile in value_tiles(part, AT_ONCE if _is_here(part) else BLOCK):
            first = -tile.cols.start % thin
            cols = slice(-(-tile.cols.start // thin), -(-tile.cols.stop // thin))
            with np.errstate(all="ignore"):  # float64 beyond float32, and signalling NaN: neither says anything
                values[start + tile.rows.start : start + tile.rows.stop, cols] = tile.read_briefly()[0][:, first::thin]
        start += part.rows
    return values


def _one_by_one(matrix: Matrix) -> Array | None:
    """The rows of a matrix in a file of this machine, each read by itself to where it will be; None elsewhere."""
    if not isinstance(matrix, StridedMatrix) or matrix.col_stride != 1 or matrix.unit != matrix.info.dtype.bits:
        return None
    place = matrix.info.region.place(0) if _is_here(matrix) else None
    if place is None or not is_filling(place[0]):
        return None
    source, size = place[0], matrix.unit // 8
    words = np.empty((matrix.rows, matrix.cols), stored_words(matrix.info.dtype, matrix.unit, matrix.info.byteorder))
    room = memoryview(words.view(np.uint8).ravel().data)
    source.read_apart(place[1] + matrix.offset * size, matrix.row_stride * size, matrix.cols * size, room)
    words = words if words.dtype.isnative else words.astype(words.dtype.newbyteorder("="))
    with np.errstate(all="ignore"):
        return np.asarray(numbers(words, matrix.info.dtype)[0], np.float32)


def _near(matrix: StridedMatrix, step: int) -> bool:
    return _is_here(matrix) and step * matrix.row_stride * matrix.unit // 8 <= _AHEAD


def _is_here(matrix: Matrix) -> bool:
    """Whether it lies in a file of this machine as it is."""
    return isinstance(matrix, StridedMatrix) and is_filling(matrix.info.region.source)


def biases_of(biases: Sequence[Bias], count: int, stride: int) -> Array:
    """The bias of every sampled row as a column; 0 where there is none."""
    column = np.zeros((count * stride, 1), np.float32)
    known: dict[str, Array | None] = {}  # one tensor has those of Q, K and V where one weight has these
    for bias in biases:
        if bias.weight.name not in known:
            known[bias.weight.name] = read(bias.weight, "out_in", 1)
        values = known[bias.weight.name]
        if values is None or len(values) <= max((run[-1] for run in bias.entries if run), default=-1):
            continue
        for rows, entries in zip(bias.rows, bias.entries, strict=True):
            column[_slice(rows), 0] = values[_slice(entries), 0]
    return column[::stride]


def _slice(run: range) -> slice:
    return slice(run.start, run.stop, run.step)
