"""Find blocks of a tensor whose numbers have other sizes than all others: flipped bits, or bytes that are no weights.

The values of a block are counted by power of two. Weights, trained or random, give a smooth hill, whose place differs
between rows and heads, as their scales do. Bytes shifted by one, text and noise spread over all sizes; a flipped bit of
the exponent moves parts of the hill, which leaves valleys in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qkvinspect.dtypes import DType
from qkvinspect.weights.reading import Array

_TOGETHER = 256
"""Values that are counted together, if those are at most _STEP bytes."""

_STEP = 1024
_WINDOW = 3 * _STEP
"""Bytes that are judged together: so many lie in whole blocks in any 4 KiB."""

_LEAST_WINDOW = 3
_FEW = 24
"""Windows of which a block of 4 KiB may reach into every one."""

_BINS = 64
_LOWEST = -48
"""The power of two below which all sizes count as one."""

_FEWEST = 128
"""Values, not zero, that tell anything."""

_TAIL = 1e-3
_SHARE = 0.02
_FAR, _FAR_OF_FEW = 8, 10
"""Powers of two beyond the largest size of half of the blocks, or of a quarter of them, that no row reaches."""

_NO_WEIGHT, _SHARE_OF_ALL = 13, 0.05
"""No weight is as large as this power of two, whatever the rest of a small tensor is like."""

_DEPTH, _SMALL = 10, 0.05
"""A hill has almost nothing that is smaller than its upper values by so many powers of two."""

_AWAY, _NEAR = 7, 3
"""Powers of two by which a block as a whole lies apart, where no other lies between."""

_VALLEY = 0.5
_SURE = 6.5
_OTHER_FORM = 0.25
"""The share of values that lie elsewhere, beyond what they do in most blocks. In those of trained weights it is 0.1."""

_OF_GAPS = 1.3
_IN_EACH = 1.8

_USUAL = 1.0, 2.6
"""The dents and gaps that a tenth of the blocks of trained weights has more of: 1.6 to 2.4, in five dtypes. Decoded
codes have none, or many; with something small added to them, as a merged adapter is, 2.9 and more."""

_SYSTEMIC = 3
"""Tensors, and at least a quarter of all, that are unusual so: no damage is in that many."""

LARGE = "numbers larger than any weight's"
WILD = "numbers of no weight's size"
SMALL = "numbers a hundred times smaller than all others"
GAPS = "sizes in gaps, as of turned bits"

Counts = NDArray[np.uint16]


def countable(dtype: DType) -> bool:
    """Whether words of this dtype have an exponent."""
    return dtype.kind == "float" and dtype.bits in (8, 16, 32, 64) and _exponent(dtype) >= 4


def from_power(power: int) -> slice:
    """The columns of counts of values that are as large as a power of two, and larger."""
    return slice(power - _LOWEST, _BINS)


def step(itemsize: int) -> int:
    """Bytes that are counted together, of values of so many bytes."""
    return min(_TOGETHER * itemsize, _STEP)


def counts(words: Array, dtype: DType) -> Counts:
    """How many values of each block have which size: [blocks, 65], the last of them exactly zero.

    Args:
        words: stored words in their order; what is left after the last whole block is not counted.
    """
    each = step(dtype.bits // 8) * 8 // dtype.bits
    blocks = len(words) // each
    words = words[: blocks * each]
    tops = words if dtype.bits <= 16 else (words >> words.dtype.type(dtype.bits - 16)).astype(np.uint16)
    sizes = _sizes_of_tops(min(dtype.bits, 16), _exponent(dtype))[tops]
    (least,) = np.nonzero(sizes == _BINS)
    if dtype.bits > 16 and len(least):
        sizes[least[words[least] << words.dtype.type(1) != 0]] = 0
    sizes.reshape(blocks, each)[:] += np.arange(blocks)[:, None] * (_BINS + 1)
    return np.bincount(sizes, minlength=blocks * (_BINS + 1)).reshape(blocks, _BINS + 1).astype(np.uint16)


@lru_cache(8)
def _sizes_of_tops(bits: int, exponent: int) -> NDArray[np.intp]:
    """Of the highest bits of a word, its sign and exponent among them, which size it has; of zeros the last."""
    bare = np.arange(1 << bits) & ((1 << bits - 1) - 1)
    sizes = np.clip((bare >> bits - 1 - exponent) - ((1 << exponent - 1) - 1 + _LOWEST), 0, _BINS - 1)
    sizes[bare == 0] = _BINS
    return sizes.astype(np.intp)


def odd(found: Counts, itemsize: int, *, gaps: bool = True) -> list[tuple[int, int, str]]:
    """Runs of blocks that are unlike the others of their tensor, and how: (first, after the last, what they are).

    Args:
        gaps: whether valleys tell anything. They do not where all rows are multiples of one.
    """
    if len(found) < 2 * _LEAST_WINDOW:
        return []
    window, summed, gapped = _windows(found, itemsize)
    total = summed.sum(axis=1)
    share = summed / np.maximum(total, 1)[:, None]
    known = total >= _FEWEST
    if not known.any():
        return []
    heights = np.cumsum(share, axis=1)
    lost = known & _apart(heights, known)
    large = known & _large(share, heights, known)
    wild = _small(heights)
    if gaps:
        wild |= _unlike(found[:, :_BINS], window) > _OTHER_FORM
    wild &= known & ~lost & ~large
    rough = known & ~wild & ~large & ~lost & _rough(summed, gapped, known) if gaps else np.zeros(len(wild), np.bool_)
    return [
        (start, stop + window - 1, what)
        for flags, what in ((large, LARGE), (wild, WILD), (lost, SMALL), (rough, GAPS))
        for start, stop in _runs(flags)
    ]


def _exponent(dtype: DType) -> int:
    if dtype.mini is not None:
        return dtype.mini.exponent
    return {16: 5, 32: 8, 64: 11}.get(dtype.bits, 0)


def _large(share: NDArray[np.float64], heights: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Blocks with values far larger than any elsewhere in the tensor."""
    tops = (heights < 1 - _TAIL).sum(axis=1)
    found = share[:, _NO_WEIGHT - _LOWEST :].sum(axis=1) > _SHARE_OF_ALL
    for portion, far in ((0.5, _FAR), (0.25, _FAR_OF_FEW)):
        top = int(np.quantile(tops[known], portion)) + 1 + far
        found |= share[:, top:].sum(axis=1) > _SHARE
    return found


def _small(heights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Blocks with many values that are far smaller than the others, as no other blocks have."""
    edge = (heights < 0.75).sum(axis=1) - _DEPTH - 1
    below = np.where(edge >= 0, np.take_along_axis(heights, np.maximum(edge, 0)[:, None], 1)[:, 0], 0)
    return below > np.maximum(_SMALL, 4 * np.median(below))


def _apart(heights: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Blocks that are far smaller as a whole, with no sizes between."""
    middles = (heights < 0.5).sum(axis=1)
    away = int(np.median(middles[known])) - middles
    far = away >= _AWAY
    between = np.count_nonzero(known & (away >= _NEAR) & ~far)
    return far & (between <= 4 + np.count_nonzero(far) // 8)


def _unlike(found: Counts, window: int) -> NDArray[np.float64]:
    """How many of the values lie elsewhere than on the hill that most blocks have, wherever in a block that stands.

    Each block is compared for itself: where rows of different sizes meet, only one has two hills.
    """
    share = found / np.maximum(found.sum(axis=1), 1)[:, None]
    middles = (np.cumsum(share, axis=1) < 0.5).sum(axis=1)
    columns = (np.arange(_BINS)[None, :] + middles[:, None] - _BINS // 2) % _BINS
    centred = np.take_along_axis(share, columns, axis=1)
    usual = np.median(centred, axis=0)
    usual /= max(float(usual.sum()), 1e-9)
    apart = np.min([np.abs(centred - np.roll(usual, by)).sum(axis=1) / 2 for by in (-1, 0, 1)], axis=0)
    more = np.where(found.sum(axis=1) < _TOGETHER // 4, 0, np.maximum(apart - float(np.median(apart)), 0))
    return _sliding(more[:, None], window)[:, 0] / window


def _sliding(values: Array, window: int) -> Array:
    """The sums of so many neighbouring rows."""
    wide = np.int64 if values.dtype.kind == "u" else np.float64
    before = np.concatenate([np.zeros_like(values[:1], wide), np.cumsum(values, axis=0, dtype=wide)])
    return before[window:] - before[:-window]


def _gaps(summed: Array) -> NDArray[np.float64]:
    """How sure it is that fewer values have some size than have both a larger and a smaller one."""
    counted = summed.astype(np.float64)
    left = np.maximum.accumulate(counted, axis=1)
    right = np.maximum.accumulate(counted[:, ::-1], axis=1)[:, ::-1]
    least = np.minimum(left, right)
    return ((least - counted) / np.sqrt(least + counted + 1)).max(axis=1)


def _dents(summed: NDArray[np.int64]) -> NDArray[np.float64]:
    """How sure it is that a slope of sizes has dents, as no hill has them, in standard deviations."""
    left, middle, right = (summed[:, start : _BINS - 2 + start].astype(np.float64) for start in range(3))
    depth = np.log((left + 0.5) * (right + 0.5) / (middle + 0.5) ** 2)
    spread = np.sqrt(1 / (left + 0.5) + 1 / (right + 0.5) + 4 / (middle + 0.5))
    seen = (left >= 8) & (right >= 8) & (depth > _VALLEY)
    return np.sqrt(np.where(seen, (depth / spread) ** 2, 0).sum(axis=1))


def roughness(found: Counts, itemsize: int) -> float | None:
    """The dents and gaps that a tenth of the blocks has more of; None where there are too few blocks to tell."""
    if len(found) < 2 * _LEAST_WINDOW:
        return None
    _, summed, gapped = _windows(found, itemsize)
    known = summed.sum(axis=1) >= _FEWEST
    return float(np.quantile(_roughness(summed, gapped)[known], 0.9)) if known.any() else None


def _windows(found: Counts, itemsize: int) -> tuple[int, NDArray[np.int64], NDArray[np.float64]]:
    """(how many blocks are looked at together, the sizes counted in each such run, the gaps that its blocks have)."""
    window = max(min(_WINDOW // step(itemsize), len(found) // 6), _LEAST_WINDOW)
    return window, _sliding(found[:, :_BINS], window), _sliding(_gaps(found[:, :_BINS]), window) / window


def usual(one: float) -> bool:
    """Whether numbers that were trained have this roughness, and were not decoded."""
    least, most = _USUAL
    return least <= one <= most


def of_codes(every: Sequence[float]) -> bool:
    """Whether the tensors of this roughness are decoded codes, or the sums of such with something small."""
    return sum(not usual(one) for one in every) >= max(_SYSTEMIC, len(every) / 4)


def _roughness(summed: NDArray[np.int64], gapped: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dents and gaps of each block. Where two rows of different sizes meet, their sum has a gap and neither has one."""
    found = _dents(summed)
    if (gapped > _IN_EACH).any():
        found = np.maximum(found, np.where(gapped > _IN_EACH, _OF_GAPS * _gaps(summed), 0))
    return found


def _rough(summed: NDArray[np.int64], gapped: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Dents and gaps that the tensor has hardly anywhere else: codes that were decoded have them everywhere."""
    found = _roughness(summed, gapped)
    usual = 3 * found[known].min() if len(found) < _FEW else 2.5 * np.quantile(found[known], 0.25)
    return found > max(_SURE, float(usual))


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
