"""Sums over the blocks that heads cut out of a matrix, and the likelihood of heads given these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_FLOOR = 1e-3  # of a variance whose usual value is 1: a class of few entries must not seem certain


@dataclass(frozen=True, slots=True)
class BlockSums:
    """Moments of the entries of one or two matrices, for every two heads.

    Attributes:
        counts: float64 [heads, other heads]: how many entries a block has, its diagonal left out.
        moments: float64 [2 or 5, heads, other heads]: sums of x and x^2, or of x, y, x^2, y^2 and xy.
        paired: count and sums of x and x^2 of the diagonals left out, where they mean something.
    """

    counts: Array
    moments: Array
    paired: tuple[float, Array] | None = None

    def of(self, chosen: Array) -> tuple[float, Array]:
        """Count and moments of the blocks that a boolean [heads, other heads] chooses."""
        return float(self.counts[chosen].sum()), self.moments[:, chosen].sum(axis=1)


def block_sums(matrix: Array, width: int, *, second: Array | None = None) -> BlockSums:
    """Add up the blocks of a symmetric matrix whose diagonal means nothing, or of two together.

    Args:
        matrix: [heads * width, heads * width], in the order of the heads, 0 on the diagonal.
        second: of the same form.
    """
    products = [matrix, matrix * matrix]
    if second is not None:
        products = [matrix, second, matrix * matrix, second * second, matrix * second]
    moments = np.array([_add_up(product, width, width) for product in products])
    heads = moments.shape[1]
    counts: Array = np.full((heads, heads), float(width * width)) - width * np.eye(heads)
    return BlockSums(counts, moments)


def cross_sums(matrix: Array, width: int, other: int, share: int) -> BlockSums:
    """Add up the blocks of similarities between two parts.

    The similarity of a row with the row at the same place of the other part's head is kept apart: these pairs
    are special in trained weights whatever the heads are.

    Args:
        matrix: [heads * width, other heads * other].
        share: how many heads downwards belong to one across.
    """
    moments = np.array([_add_up(product, width, other) for product in (matrix, matrix * matrix)])
    counts = np.full(moments.shape[1:], float(width * other))
    if width != other:
        return BlockSums(counts, moments)
    heads = np.arange(len(counts))
    down = np.arange(len(matrix))
    own = matrix[down, down // width // share * width + down % width].astype(np.float64).reshape(-1, width)
    sums = np.array([own.sum(axis=1), (own * own).sum(axis=1)])
    moments[:, heads, heads // share] -= sums
    counts[heads, heads // share] -= width
    return BlockSums(counts, moments, (float(own.size), sums.sum(axis=1)))


def _add_up(matrix: Array, width: int, other: int) -> Array:
    down: Array = np.arange(0, len(matrix), width)
    right: Array = np.arange(0, len(matrix.T), other)
    return np.add.reduceat(np.add.reduceat(matrix, down, axis=0), right, axis=1).astype(np.float64)


def log_likelihood(count: float, moments: Array, *, given: bool = False) -> float:
    """Of entries that share a normal distribution, fitted to them: up to a constant an entry.

    Args:
        moments: as in ``BlockSums``.
        given: of y where x is known, for two matrices.
    """
    if count < 4:
        return 0.0
    mean = moments / count
    if len(mean) == 2:
        spread = mean[1] - mean[0] ** 2 + _FLOOR
    else:
        x, y = mean[2] - mean[0] ** 2 + _FLOOR, mean[3] - mean[1] ** 2 + _FLOOR
        both = mean[4] - mean[0] * mean[1]
        spread = y - both * both / x if given else x * y - both * both
    return -0.5 * count * float(np.log(max(spread, _FLOOR**2)))


def classes(sums: BlockSums, masks: Sequence[Array], *, given: bool = False) -> float:
    """The log-likelihood with a distribution of its own for each class of blocks."""
    return sum(log_likelihood(*sums.of(mask), given=given) for mask in masks)
