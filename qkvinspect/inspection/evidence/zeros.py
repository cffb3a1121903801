"""Where exact zeros lie: pruning, padding and coarse rounding put them there, and heads have no say in it.

Rows that are zero at the same columns are alike, or hardly vary, whatever their values are: blocks of zeros, rows of a
padded head and the few values that coarse rounding leaves all look like heads of another size.
"""

from __future__ import annotations

import numpy as np

from qkvinspect.weights.reading import Array

_SOME = 0.05
"""The share of zeros from which their places are looked at."""

_ALIKE = 0.4
"""How alike neighbours are in being zero. Pruned one by one, trained weights have under 0.1, and every other one of
four -0.3; blocks and runs of eight have 0.7 and more, of sixteen 0.9."""

_MOSTLY = 0.5
"""The share of zeros beyond which two rows may have no column in common."""

_STRAY = 0.5
"""The share of pairs without a common column, among rows that are not zero, beyond which there is too little left."""


_REGULAR = 0.75
"""The share of runs of zero rows that follow each other at one distance, where every head was padded."""


_FEW, _LEFT = 16, 0.1
"""Different values, and the share of values that are not zero: with so few of both, two of 40 roundings of trained
layers had other heads."""


def hardly_any(values: Array) -> bool:
    """Whether zeros are too few for two rows and for any share that counts, wherever they lie: nearly always.

    Then none of what follows is the case. It takes a fifth of the time.
    """
    zeros = _count(values)
    return zeros < min(values.shape[1], _SOME * (values.size - zeros))


def _count(values: Array) -> int:
    """Of zeros: numpy compares numbers and counts what is true in less time than it counts what is not zero."""
    return int(np.count_nonzero(values == 0))


def in_blocks(values: Array) -> bool:
    """Whether zeros lie in blocks, or in runs along a row or a column, or in some rows of every head.

    Whole columns of zeros are the same for all rows, and whole rows of zeros anywhere else are a head that was pruned,
    or some units.
    """
    zeros = _count(values)
    if zeros < 2 * values.shape[1] and zeros < _SOME * (values.size - zeros):
        return False  # too few for two rows, and wherever they lie
    zero = values == 0
    if _padded(zero.all(axis=1)):
        return True
    zero = zero[~zero.all(axis=1)][:, ~zero.all(axis=0)]
    if not zero.size or zero.mean() < _SOME:
        return False
    apart = zero - zero.mean(axis=1, dtype=np.float32, keepdims=True)
    apart -= apart.mean(axis=0, keepdims=True)
    spread = float((apart * apart).mean())
    down, across = apart[1:] * apart[:-1], apart[:, 1:] * apart[:, :-1]
    return any(part.size and float(part.mean()) > _ALIKE * spread for part in (down, across))


def _padded(empty: Array) -> bool:
    """Whether rows are empty at even distances from the first to the last."""
    starts = np.flatnonzero(np.diff(empty.astype(np.int8), prepend=0) == 1)
    if len(starts) < 2:
        return False
    distances, often = np.unique(np.diff(starts), return_counts=True)
    usual = int(distances[often.argmax()])
    return often.max() >= _REGULAR * (len(starts) - 1) and usual * len(starts) >= _REGULAR * len(empty)


def too_few(values: Array) -> bool:
    """Whether so few values are left that what is alike is by chance: many rows have no column in common."""
    if _count(values) < _MOSTLY * values.size:
        return False
    held = values != 0
    if 0 < held.mean() < _LEFT and len(np.unique(np.abs(values[held]))) <= _FEW:
        return True
    held = held[held.any(axis=1)]
    if not len(held) or held.mean() > 1 - _MOSTLY:
        return not len(held)
    stray = _without_common(held)
    return float(stray.mean()) > _STRAY


def incomparable(values: Array) -> Array | None:
    """Which pairs of rows have no column in common, so that nothing is known of them; None where there are none."""
    if _count(values) < min(values.shape[1], (1 - _MOSTLY) * values.size):
        return None
    held = values != 0
    if float(held.mean()) > 1 - _MOSTLY:
        empty = ~held.any(axis=1)
        return empty[:, None] | empty if empty.any() else None
    stray = _without_common(held)
    return stray if stray.any() else None


def noise(count: int) -> Array:
    """What stands for similarities that nothing is known of: float32 [count, count], symmetric."""
    drawn = np.triu(np.random.default_rng(0).standard_normal((count, count), np.float32), 1)
    return drawn + drawn.T


def _without_common(held: Array) -> Array:
    counted = held.astype(np.float32)
    return counted @ counted.T == 0
