"""Similarities of a weight's rows, on a scale with the same distribution under the null hypothesis for all weights."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from qkvinspect.inspection.evidence.odds import normal_quantile
from qkvinspect.inspection.evidence.zeros import incomparable, noise
from qkvinspect.weights.reading import Array

_LEVELS = 1 << 16
_MANY = 200_000
_ONE_COLUMN = 1.1
"""A row shorter than so many times its largest value is dominated by that value."""

_LEAST, _MOST = 1e-20, 1e30
"""Squares of lengths that float32 holds as well as others."""

_FLAT = 1e-5
"""Cosines below this are rounding noise: orthogonal or unit rows, which say nothing."""


def normal_scores(rows: Array, lengths: Array | None = None) -> Array | None:
    """The cosine of every two rows, replaced by the normal quantile of its rank.

    Ranks make the statistics that follow distributed as their theory says, however heavy the tails of the
    cosines are: over random weights, and over trained ones whose rows are shuffled, a likelihood ratio comes
    out as chi-square with its nominal degrees of freedom. Pairs of which nothing is known, as rows that are zero,
    are given noise.

    Args:
        rows: float32 [n, columns].
        lengths: of these, where they are known.

    Returns:
        float32 [n, n], symmetric, 0 on the diagonal; None where the rows say nothing: a value that is not
        finite, or rows that are all orthogonal, all alike, or mostly copies of one column (an identity matrix,
        whose rows say where they come from and not which head they are in).
    """
    lengths = lengths_of(rows) if lengths is None else lengths
    if len(rows) < 4 or not np.isfinite(lengths).all():
        return None
    largest_values = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    if np.mean(lengths < _ONE_COLUMN * largest_values) + np.mean(largest_values == 0) > 0.5:
        return None
    unit = _of_length_one(rows, lengths)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, 0)
    largest = max(float(cosines.max()), -float(cosines.min()))
    if largest < _FLAT:
        return None
    levels = _levels(cosines, largest)
    unknown = incomparable(rows)
    some = _some_above(len(rows))
    counted = levels.take(some) if unknown is None else levels.take(some)[~unknown.take(some)]
    counts = np.bincount(counted, minlength=_LEVELS)
    found = np.flatnonzero(counts > 0)
    if len(found) < len(rows):
        return None
    if len(some) < _pairs(len(rows)):  # a pair that was not counted may have any level
        found = np.arange(_LEVELS)
    counts = counts[found]
    quantiles = np.zeros(_LEVELS, np.float32)
    quantiles[found] = _quantiles((np.cumsum(counts) - counts / 2) / counts.sum())
    scores = quantiles.take(levels)
    if unknown is not None:
        scores[unknown] = noise(len(rows))[unknown]
    np.fill_diagonal(scores, 0)
    return scores


def _of_length_one(rows: Array, lengths: Array) -> Array:
    """Each row divided by its length, float32; rows of zeros are left."""
    factors = (1 / np.where(lengths > 0, lengths, 1))[:, None]
    if factors.max() < _MOST:
        return rows * factors.astype(np.float32)
    return (rows * factors.astype(np.float64)).astype(np.float32)  # of subnormal numbers


def lengths_of(rows: Array) -> Array:
    """The length of each row of float32, in float64 where its square may be none of float32's."""
    with np.errstate(all="ignore"):
        squares = np.einsum("ij,ij->i", rows, rows)
        if not ((squares > _LEAST) & (squares < _MOST)).all():
            squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        return np.sqrt(squares)


def normal_ranks(values: Array) -> Array:
    """The normal quantile of each value's rank: float32, of the same shape as the values; equal ones have the same."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return _quantiles((np.cumsum(counts) - counts / 2) / counts.sum())[places.reshape(values.shape)]


def _levels(cosines: Array, largest: float) -> Array:
    """The bin of each cosine, among many of equal width; the cosines are lost."""
    half = (_LEVELS - 1) / 2
    cosines *= half / largest
    cosines += half
    return cosines.astype(np.intp)


def _pairs(count: int) -> int:
    """Of so many rows."""
    return count * (count - 1) // 2


@lru_cache(4)
def _some_above(count: int) -> Array:
    """Which entries of a matrix of so many rows are above its diagonal, row by row; of very many, one in several."""
    ends: Array = np.cumsum(np.arange(count - 1, -1, -1))
    every = _pairs(count)
    places: Array = np.arange(0, every, every // _MANY + 1)
    rows: Array = np.searchsorted(ends, places, side="right")
    return rows * count + places - ends[rows] + count


def _quantiles(ranks: Array) -> Array:
    """Normal quantiles, float32, of ranks between 0 and 1."""
    grid, normal = _normal()
    return np.interp(ranks, grid, normal).astype(np.float32)


@cache
def _normal() -> tuple[Array, Array]:
    """Probabilities and their normal quantiles."""
    grid = np.linspace(0, 1, 2049)
    return grid, np.array([normal_quantile(min(max(p, 1e-4), 1 - 1e-4)) for p in grid.tolist()])
