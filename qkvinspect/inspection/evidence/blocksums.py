"""SumsOverBlocks over the blocks that heads cut out of a matrix, and the likelihood of heads given these."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.reading import Array

_RUNS_KEPT = 64

_FIRST = 8
"""Rows of the blocks that larger ones are made of: to halve three times first takes twice as long."""


@dataclass(frozen=True, slots=True)
class BlockSums:
    """Moments of the entries of one or two matrices, for every two heads.

    Attributes:
        counts: float64 [heads, other heads]: how many entries a block has, its diagonal left out.
        moments: float64 [2 or 5, heads, other heads]: sums of x and x^2, or of x, y, x^2, y^2 and xy. Of several layers
            [2 or 5, layers, heads, other heads].
        paired: count and sums of x and x^2 of the diagonals left out, where they mean something, [2] or [2, layers].
    """

    counts: Array
    moments: Array
    paired: tuple[float, Array] | None = None

    @property
    def form(self) -> tuple[object, ...]:
        """What those have in common whose blocks are as many and as large: all counts follow from it."""
        sizes = float(self.counts[0, 0]), float(self.counts[0, -1])
        return len(self.moments), self.counts.shape, sizes, self.paired and self.paired[0]

    def of(self, down: Array, across: Array) -> tuple[float, Array]:
        """Count and moments of some blocks, given by arrays of their indices, broadcast together."""
        chosen = self.moments[..., down, across]
        sums = chosen.reshape(*self.moments.shape[:-2], -1).sum(axis=-1)
        return float(self.counts[down, across].sum()), sums

    def of_diagonal(self) -> tuple[float, Array]:
        """Count and moments of the blocks of each head with itself."""
        return float(self.counts.trace()), self.moments.trace(axis1=-2, axis2=-1)

    def of_layer(self, number: int) -> BlockSums:
        """Those of one of several layers."""
        paired = self.paired and (self.paired[0], self.paired[1][:, number])
        return BlockSums(self.counts, self.moments[:, number], paired)

    def of_all(self) -> BlockSums:
        """Moments of the entries of several layers, as if each block were one."""
        if self.moments.ndim == 3:
            return self
        layers = self.moments.shape[1]
        paired = self.paired and (layers * self.paired[0], self.paired[1].sum(axis=1))
        return BlockSums(layers * self.counts, self.moments.sum(axis=1), paired)


def added_up(layers: Sequence[BlockSums]) -> BlockSums:
    """Moments of the entries of several layers, as if each block were one."""
    counts = np.sum([one.counts for one in layers], axis=0)
    moments = np.sum([one.moments for one in layers], axis=0)
    pairs = [one.paired for one in layers if one.paired is not None]
    paired = (sum(count for count, _ in pairs), np.sum([sums for _, sums in pairs], axis=0)) if pairs else None
    return BlockSums(counts, moments, paired)


def side_by_side(several: Sequence[BlockSums]) -> BlockSums:
    """Those of blocks of the same sizes, as of so many layers, each for itself."""
    first = several[0]
    moments = [one.moments.reshape(len(one.moments), -1, *first.counts.shape) for one in several]
    pairs = [one.paired[1].reshape(2, -1) for one in several if one.paired is not None]
    paired = first.paired and (first.paired[0], np.concatenate(pairs, axis=1))
    return BlockSums(first.counts, np.concatenate(moments, axis=1), paired)


class SumsOverBlocks:
    """Of the entries of some matrices of one shape; cached, as each block of twice the size is made of four.

    Matrices may be those of several layers: what is said of [matrices, rows, columns] holds of [matrices, layers, rows,
    columns].
    """

    def __init__(self, values: Array) -> None:
        self._values = values
        self._sums: dict[tuple[int, int], Array] = {}

    def over(self, width: int, other: int) -> Array:
        """Over blocks of ``width`` rows and ``other`` columns: float64 [matrices, blocks, blocks]."""
        if (width, other) not in self._sums:
            self._sums[width, other] = self._over(width, other)
        return self._sums[width, other]

    def _over(self, width: int, other: int) -> Array:
        if width % 2 or other % 2:
            height, length = self._values.shape[-2:]
            down, right = np.arange(0, int(height), width), np.arange(0, int(length), other)
            rows = np.add.reduceat(self._values, down, axis=-2, dtype=np.float64)
            return np.add.reduceat(rows, right, axis=-1)
        if width == other == _FIRST:
            rows = self._values.reshape(*self._values.shape[:-2], -1, width, self._values.shape[-1])
            sums = rows.sum(axis=-2, dtype=np.float64)
            return sums.reshape(*sums.shape[:-1], -1, other).sum(axis=-1)
        quarters = self._values if width == other == 2 else self.over(width // 2, other // 2)
        halves = np.add(quarters[..., ::2, :], quarters[..., 1::2, :], dtype=np.float64)
        return halves[..., ::2] + halves[..., 1::2]


class Products:
    """The entries of one matrix, or of two of the same shape, and their products, from which sums are made."""

    def __init__(self, matrix: Array, second: Array | None = None) -> None:
        self.matrix = matrix
        products = [matrix, matrix * matrix]
        if second is not None:
            products = [matrix, second, matrix * matrix, second * second, matrix * second]
        self._sums = SumsOverBlocks(np.array(products))

    def add_up(self, width: int, other: int) -> Array:
        """SumsOverBlocks over blocks of ``width`` rows and ``other`` columns: float64 [2 or 5, blocks, blocks]."""
        return self._sums.over(width, other)

    def at(self, down: Array, across: Array) -> Array:
        """Single entries of the first matrix."""
        return self.matrix[..., down, across]


class Whole:
    """All similarities of a sample, whose sums are shared by whatever takes whole runs of neighbouring rows for heads.

    Nearly every packing does: they differ in whose run it is.
    """

    def __init__(self, scores: Array) -> None:
        self.scores = scores
        self._sums: SumsOverBlocks | None = None
        self._known: dict[tuple[bytes, int], Array | slice | None] = {}

    def over(self, rows: Array, columns: Array, width: int) -> Array | None:
        """SumsOverBlocks of the entries and of their squares over the blocks of heads.

        Args:
            rows, columns: one head's after the other's.

        Returns:
            float64 [2, heads, other heads]; None where the rows of a head are no run that starts at a multiple of
            their number.
        """
        down, across = self._runs(rows, width), self._runs(columns, width)
        if down is None or across is None or self.scores.shape[-1] % width:
            return None
        if self._sums is None:
            self._sums = SumsOverBlocks(np.array([self.scores, self.scores * self.scores]))
        some = self._sums.over(width, width)
        some = some[..., down, :] if isinstance(down, slice) else some.take(down, axis=-2)
        return some[..., across] if isinstance(across, slice) else some.take(across, axis=-1)

    def _runs(self, rows: Array, width: int) -> Array | slice | None:
        """Which runs of so many rows these are, if they are: kept, as each part is compared with all others."""
        key = rows.tobytes(), width
        if key not in self._known:
            if len(self._known) >= _RUNS_KEPT:
                self._known.clear()
            runs = _runs(rows, width)
            self._known[key] = runs if runs is None else _one_run(runs) or runs
        return self._known[key]

    def cut(self, rows: Array, columns: Array) -> Array:
        """The similarities of some rows with others."""
        down, across = _one_run(rows), _one_run(columns)
        if down is not None and across is not None:
            return self.scores[..., down, across]
        return self.scores.take(rows, axis=-2).take(columns, axis=-1)


def _one_run(rows: Array) -> slice | None:
    start, count = int(rows[0]), len(rows)
    return slice(start, start + count) if int(rows[-1]) == start + count - 1 and (np.diff(rows) == 1).all() else None


def _runs(rows: Array, width: int) -> Array | None:
    """Which runs of so many rows these are, if they are."""
    heads = rows.reshape(-1, width)
    numbers, over = np.divmod(heads[:, 0], width)
    return None if over.any() or (np.diff(heads) != 1).any() else numbers


class CutProducts(Products):
    """Products of the similarities of some rows with others, and of those tied to them, cut out where they must be."""

    def __init__(self, whole: Whole, rows: Array, columns: Array, tied: Array | None = None) -> None:
        self._whole, self._rows, self._columns, self._tied = whole, rows, columns, tied
        self._both: SumsOverBlocks | None = None
        self._all: Products | None = None

    @cached_property
    def matrix(self) -> Array:
        return self._whole.cut(self._rows, self._columns)

    def at(self, down: Array, across: Array) -> Array:
        return self._whole.scores[..., self._rows[down], self._columns[across]]

    def add_up(self, width: int, other: int) -> Array:
        own = self._whole.over(self._rows, self._columns, width) if width == other else None
        if self._tied is None or own is None:
            return self._cut.add_up(width, other) if own is None else own
        tied = self._whole.over(self._tied, self._tied, width)
        if tied is None:
            return self._cut.add_up(width, other)
        if self._both is None:
            self._both = SumsOverBlocks((self.matrix * self._whole.cut(self._tied, self._tied))[None])
        x, xx = own
        y, yy = tied
        return np.array([x, y, xx, yy, self._both.over(width, width)[0]])

    @cached_property
    def _cut(self) -> Products:
        tied = None if self._tied is None else self._whole.cut(self._tied, self._tied)
        return Products(self.matrix, tied)


def block_sums(products: Products, width: int, share: int = 1) -> BlockSums:
    """Sums of the blocks of symmetric matrices; their diagonals must be 0 and are left out.

    Args:
        products: of [heads * width, heads * width], in the order of the heads; of one matrix where any are shared.
        share: how many neighbouring heads share a kv head; rows at one place of these are tied to one, and kept apart.
    """
    moments = products.add_up(width, width)
    heads = moments.shape[-1]
    counts = _counts(heads, width)
    if share == 1:
        return BlockSums(counts, moments)
    counts, moments, rows = (
        counts.copy(),
        moments.copy(),
        np.arange(heads * width, dtype=np.int64).reshape(heads, width),
    )
    shared: Array = np.kron(np.eye(heads // share), np.ones((share, share))) - np.eye(heads)
    one, other = shared.nonzero()
    tied = products.at(rows[one], rows[other]).astype(np.float64)
    sums = np.array([tied.sum(axis=-1), (tied * tied).sum(axis=-1)])
    moments[..., one, other] -= sums
    counts[one, other] -= width
    return BlockSums(counts, moments, (len(one) * width / 2, sums.sum(axis=-1) / 2))


@lru_cache(maxsize=64)
def _counts(heads: int, width: int) -> Array:
    """How many entries the blocks of symmetric matrices have."""
    return np.full((heads, heads), float(width * width)) - width * np.eye(heads)


def cross_sums(products: Products, width: int, other: int, share: int) -> BlockSums:
    """SumsOverBlocks of the blocks of similarities between two parts.

    The similarity of a row with the row at the same place of the other part's head is kept apart: these pairs
    are special in trained weights whatever the heads are.

    Args:
        products: of [heads * width, other heads * other].
        share: how many heads downwards belong to one across.
    """
    moments = products.add_up(width, other)
    heads, others = moments.shape[-2:]
    if width != other:
        return BlockSums(np.full((heads, others), float(width * other)), moments)
    counts, down, across = _of_own_head(heads, others, width, share)
    own = products.at(down, across).astype(np.float64)
    own = own.reshape(*own.shape[:-1], -1, width)
    sums = np.array([own.sum(axis=-1), (own * own).sum(axis=-1)])
    moments = moments.copy()
    moments[..., down[::width] // width, across[::width] // width] -= sums
    return BlockSums(counts, moments, (float(down.size), sums.sum(axis=-1)))


@lru_cache(maxsize=64)
def _of_own_head(heads: int, others: int, width: int, share: int) -> tuple[Array, Array, Array]:
    """How many entries blocks have without those of rows at one place of a head and of its own other one; and these."""
    down = np.arange(heads * width)
    across = down // width // share * width + down % width
    counts = np.full((heads, others), float(width * width))
    counts[np.arange(heads), np.arange(heads) // share] -= width
    return counts, down, across
