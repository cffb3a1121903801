"""A hash of every row and every column of a part, to find rows again that were moved."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qkvinspect.diff.ordered_rows import Lines, tiles
from qkvinspect.dtypes import DType
from qkvinspect.weights.reading import Array
from qkvinspect.weights.rounding import rounded

Numbers = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A hash of 64 bits for each row and each column. Transposing the matrix swaps the two lists."""

    rows: Numbers
    cols: Numbers


def fingerprint(lines: Lines, into: DType) -> Fingerprint:
    """Hash a part, its values rounded to ``into``, so that a copy in that dtype gets the same hashes."""
    keys = _keys(max(lines.rows, lines.cols))
    rows, cols = np.zeros(lines.rows, np.uint64), np.zeros(lines.cols, np.uint64)
    for down, across in tiles(lines):
        mixed = _mixed(rounded(lines.values(lines.words(down, across)), into))
        rows[down.start : down.stop] += (mixed * keys[across.start : across.stop]).sum(axis=1, dtype=np.uint64)
        cols[across.start : across.stop] += (mixed.T * keys[down.start : down.stop]).sum(axis=1, dtype=np.uint64)
    return Fingerprint(rows, cols)


def _mixed(values: Array) -> Numbers:
    """Mix the bits of each value over 64. The low bits of a bfloat16 are all zero, and a sum would leave them zero."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = values.astype(np.float64) + 0.0  # no negative zero
    wide[np.isnan(wide)] = np.nan
    bits = np.ascontiguousarray(wide).view(np.uint64)
    bits = (bits ^ (bits >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return bits ^ (bits >> np.uint64(29))


@lru_cache(maxsize=4)
def _keys(count: int) -> Numbers:
    return np.random.default_rng(7).integers(0, 1 << 64, count, dtype=np.uint64) | np.uint64(1)
