"""Sums of squares of stored words by numpy, row by row, at a good part of the speed of memory.

What is made of the words of a block never leaves the processor's cache. What comes out is exact to a few parts in
10**7; where that cannot be said of a row (it is not finite, too large or too small), it is said so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from threading import local
from typing import TYPE_CHECKING, Any

import numpy as np

from qkvinspect.dtypes import DType
from qkvinspect.weights.reading import Array, numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Sums = NDArray[np.float64]

_RUN = 256  # float32 squares that BLAS sums; it keeps at least four sums, so a norm stays within 1e-6
_DEEP = 32  # float32 squares that are summed one after the other
_TINY = 1e-25  # mean square under which float32 squares lose digits
_AT_ONCE = 1 << 18  # words that are turned into numbers
_SAMPLED = 61  # one word in so many is sampled
_HALF_LIMIT = 2.0**32  # what the square of a float16 that is not finite comes to here; no other reaches it

_ONES = np.ones((_RUN, 1), np.float32)
_ROOMS = local()


def row_squares(words: Array, dtype: DType) -> tuple[Sums, NDArray[np.intp]]:
    """The sum of squares of each row, and which rows must be looked at more closely.

    Args:
        words: as ``blocks`` yields them.
    """
    narrow = dtype.name == "float16" or (dtype.mini is not None and dtype.mini.exponent < 8)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        total, most = _totals(words, dtype)
        fine = total < most
        if not narrow:
            fine &= total >= _TINY * words.shape[1]
            has_zero = words.dtype.names is None and (dtype.mini is None or dtype.mini.mantissa > 0)
            if has_zero and not total.all():
                fine |= np.bitwise_or.reduce(words, axis=1) == 0
    return total, np.nonzero(~fine)[0]


def value_squares(values: Sequence[Array]) -> tuple[Sums, NDArray[np.intp]]:
    """As ``row_squares``, of numbers that were decoded."""
    total = np.zeros(len(values[0]))
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for some in values:
            total += _squares(some)
    return total, np.nonzero(~(np.isfinite(total) & (total >= _TINY * values[0].shape[1])))[0]


def _totals(words: Array, dtype: DType) -> tuple[Sums, float]:
    """The sums, and the value from which a sum is not to be trusted."""
    if words.flags.c_contiguous:
        if dtype.name == "bfloat16" and sys.byteorder == "little":
            return _by_rows(words, lambda some: _squares(_bfloat16(some))), np.inf
        if dtype.name == "float16" and not _subnormal(words):
            return _by_rows(words, lambda some: _squares(_float16(some))), _HALF_LIMIT
        if dtype.name == "float16":
            return _by_rows(words, lambda some: _looked_up(some, _table(dtype))), np.inf
        if words.shape[1] % 2 == 0 and dtype.bits in (4, 8) and dtype.kind == "float":
            pairs = _pair_table(dtype)
            return _by_rows(words.view(np.uint16), lambda some: _looked_up(some, pairs)), np.inf
    total = np.zeros(len(words))
    for values in numbers(words, dtype):
        total += _squares(values)
    return total, np.inf


def _by_rows(words: Array, summed: Callable[[Array], Sums]) -> Sums:
    """Some rows at a time: what is made of them is larger than they are, and stays in the processor's cache."""
    step = max(_AT_ONCE // max(words.shape[1], 1), 1)
    return np.concatenate([summed(words[start : start + step]) for start in range(0, len(words), step)])


def _bfloat16(words: Array) -> Array:
    """A bfloat16 is the upper half of a float32: widened to uint32 and written two bytes late, it lies in that half."""
    room = _room((words.size + 1,), np.uint32)
    room[0] = 0
    np.copyto(np.ndarray(words.shape, np.uint32, room.data, 2), words)
    return room[:-1].view(np.float32).reshape(words.shape)


def _float16(words: Array) -> Array:
    """Without its sign and moved to where float32 has its exponent, a float16 is 2**-112 of its value, exactly."""
    bare, room = _room(words.shape, np.uint16), _room(words.shape, np.uint32)
    np.bitwise_and(words, np.uint16(0x7FFF), out=bare)
    np.left_shift(bare, np.uint32(13), out=room, dtype=np.uint32)
    values = room.view(np.float32)
    return np.multiply(values, np.float32(2.0**112), out=values)


def _subnormal(words: Array) -> bool:
    """Whether so many float16 are subnormal that a table is faster: processors take long over those of float32."""
    some = words[:, ::_SAMPLED]
    return bool(np.count_nonzero((some & 0x7C00 == 0) & (some & 0x3FF != 0)) > some.size // 64)


def _looked_up(words: Array, table: NDArray[np.float32]) -> Sums:
    """By a table: no arithmetic, so that all numbers take equally long."""
    places, found = _room(words.shape, np.intp), _room(words.shape, np.float32)
    np.copyto(places, words)
    np.take(table, places, out=found, mode="wrap")
    return _in_runs(found, _sums)


@lru_cache(1)
def _table(dtype: DType) -> NDArray[np.float32]:
    """The square of the number in two bytes."""
    return np.square(numbers(np.arange(1 << 16, dtype=np.uint16), dtype)[0])


@lru_cache(4)
def _pair_table(dtype: DType) -> NDArray[np.float32]:
    """The sum of squares of the numbers in two bytes."""
    one = np.square(numbers(np.arange(256, dtype=np.uint8)[:, None], dtype)[0]).sum(axis=1)
    return np.add.outer(one, one).ravel()


def _room(shape: tuple[int, ...], dtype: type[np.generic]) -> Array:
    """Scratch memory, kept by each thread: new memory would have to be cleared by the system each time."""
    size = prod(shape) * np.dtype(dtype).itemsize
    kept: Array | None = getattr(_ROOMS, dtype.__name__, None)
    if kept is None or kept.nbytes < size:
        kept = np.empty(size, np.uint8)
        setattr(_ROOMS, dtype.__name__, kept)
    return kept[:size].view(dtype).reshape(shape)


def _squares(values: Array) -> Sums:
    """Of each row; what lies together in memory is read together."""
    if values.T.flags.c_contiguous and not values.flags.c_contiguous:
        return _down(values.T)
    return _in_runs(np.ascontiguousarray(values), _dots)


def _in_runs(values: Array, summed: Callable[[Array], Any]) -> Sums:
    """Sums of rows, by what sums short ones in float32."""
    whole = values.shape[1] // _RUN * _RUN
    runs = values[:, :whole].reshape(len(values), -1, _RUN)
    return summed(runs).sum(axis=1, dtype=np.float64) + summed(values[:, whole:])


def _dots(values: Array) -> Any:
    return np.matmul(values[..., None, :], values[..., :, None])[..., 0, 0]


def _sums(values: Array) -> Any:
    return np.matmul(values[..., None, :], _ONES[: values.shape[-1]])[..., 0, 0]


def _down(values: Array) -> Sums:
    """Of each column of a contiguous array."""
    whole = len(values) // _DEEP * _DEEP
    deep = np.square(values[:whole]).reshape(-1, _DEEP, values.shape[1]).sum(axis=1)
    return deep.sum(axis=0, dtype=np.float64) + np.square(values[whole:]).sum(axis=0)
