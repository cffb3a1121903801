"""Sums of squares by numkong's compiled loops, where it is installed and gives right results on this machine.

numpy has no arithmetic for the narrow types: on one core our own comes to 4 GB/s for bfloat16, 1.5 for float16 and 1
for float8_e4m3fn, numkong to 12, 12 and 4 (tests/benchmarks/SUMS.md). float32 stays with numpy: BLAS is as fast and
lets other threads work meanwhile, which numkong does not. float8_e5m2 stays too: numkong 7.8 takes its infinities
and NaN for numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from qkvinspect.dtypes import DTYPES
from qkvinspect.weights.reading import Array, numbers

Squares = Callable[[Array], Array]
"""Words [..., columns] in, the float64 sum of squares of each row out."""

_CODES = {"bfloat16": "bf16", "float16": "f16", "float8_e4m3fn": "e4m3"}
_STEP = 61  # one 16-bit pattern in so many is tried before numkong is trusted
_WIDE = 67  # columns: whole registers of every width, and some over
_CLOSE = 3e-7


@cache
def squares_of(name: str) -> Squares | None:
    """The function that sums squares of a dtype; None where numpy is used."""
    if name not in _CODES or sys.byteorder != "little":
        return None
    try:
        norm: Any = import_module("numkong").norm
    except (ImportError, AttributeError):  # not installed, or of another version
        return None

    def squares(words: Array) -> Array:
        if not words.size:
            return np.zeros(words.shape[:-1])
        found: Array = np.asarray(norm(words, axis=words.ndim - 1, dtype=_CODES[name]), np.float64)
        return found * found

    return squares if _is_right(squares, name) else None


def _is_right(squares: Squares, name: str) -> bool:
    """Whether it agrees with numpy on values of every size. This is tested, as the loops differ between processors."""
    dtype = DTYPES[name]
    step, word = (1, np.uint8) if dtype.bits == 8 else (_STEP, np.uint16)
    patterns = np.arange(0, 1 << dtype.bits, step).astype(word)
    special = numbers(np.arange(1 << dtype.bits).astype(word), dtype)[0]
    patterns = np.concatenate([patterns, np.nonzero(~np.isfinite(special))[0][:: 1 + step // 4].astype(word)])
    words: Array = np.zeros((len(patterns), _WIDE), word)
    places = np.arange(len(patterns))
    words[places, places % _WIDE] = words[:, -1] = patterns
    with np.errstate(all="ignore"):
        expected = np.square(numbers(words, dtype)[0].astype(np.float64)).sum(axis=1)
        try:
            found = squares(words)
        except (TypeError, ValueError, RuntimeError):
            return False
        finite = np.isfinite(expected) & (expected < np.finfo(np.float32).max) & (expected > 1e-30)
        unlike = np.abs(found[finite] - expected[finite]) > _CLOSE * expected[finite]
    return not unlike.any() and not np.isfinite(found[~np.isfinite(expected)]).any()
