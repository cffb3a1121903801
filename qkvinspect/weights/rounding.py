"""Round values to a narrower dtype: to nearest, ties to even, as torch and IEEE 754 do."""

from __future__ import annotations

from functools import cache

import numpy as np

from qkvinspect.dtypes import DType
from qkvinspect.weights.reading import Array, numbers


def rounded(values: Array, dtype: DType) -> Array:
    """Floats as ``dtype`` would hold them, in a dtype that numpy has; other kinds as they are.

    float64 becomes bfloat16 by way of float32, as in torch. What is too large for a type becomes infinite.
    """
    if dtype.kind != "float" or dtype.name == "float64":
        return values
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype.bits == 16 and dtype.mini is None:
            return values.astype(np.float16).astype(np.float32)
        single = np.ascontiguousarray(values, np.float32)
    if dtype.name == "float32":
        return single
    return _bfloat16(single) if dtype.bits == 16 else _nearest(single, dtype)


def as_bytes(values: Array, dtype: DType) -> bytes:
    """Numbers as a file holds them in a dtype of 16 bits or more, row-major and little-endian."""
    found = rounded(values, dtype)
    if dtype.name == "bfloat16":
        return (np.ascontiguousarray(found, np.float32).view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
    return found.astype(f"<f{dtype.bits // 8}").tobytes()


def _bfloat16(values: Array) -> Array:
    bits = values.view(np.uint32)
    upper = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(values), values, upper.view(np.float32))  # only NaN can run over 32 bits


def _nearest(values: Array, dtype: DType) -> Array:
    """By a table of what a type of at most 8 bits can hold."""
    table = _magnitudes(dtype)
    size = np.abs(values)
    above = np.searchsorted(table, size).clip(1, len(table) - 1)
    low, high = table[above - 1], table[above]
    middle = (low + high) / 2
    up = (size > middle) | ((size == middle) & (above % 2 == 0))
    found = np.where(up, high, low)
    edge = table[-1] + (table[-1] - table[-2]) / 2
    overflow = size >= edge if len(table) % 2 == 0 else size > edge  # the largest is even: a tie stays there
    found = np.where(np.isnan(values), values, np.where(overflow, np.float32(np.inf), found))
    return np.copysign(found, values)


@cache
def _magnitudes(dtype: DType) -> Array:
    """Every finite value of a type, without its sign, ascending: even places have even mantissas."""
    every = numbers(np.arange(256, dtype=np.uint8).repeat(3).reshape(256, 3), dtype)[0]
    return np.unique(np.abs(every[np.isfinite(every)])).astype(np.float32)
