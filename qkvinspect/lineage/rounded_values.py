"""Whether numbers are others that were rounded to a dtype: value by value, not by how far they lie on the whole.

Training that hardly moved anything stays within a rounding on the whole, but not in each of many thousand values.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from qkvinspect.dtypes import DType
from qkvinspect.weights.reading import Array

Same = Literal["equal", "rounded"]

_BITS = {"float64": (52, -1022), "float16": (10, -14), "bfloat16": (7, -126)}
_FLOAT32 = 23, -126


def same_values(source: Array, target: Array, source_dtype: DType, target_dtype: DType) -> Same | None:
    """What ``target`` is of ``source``: the same numbers, or these rounded to its dtype; None: something else."""
    if source.shape != target.shape:
        return None
    equal = source == target
    if equal.all():
        return "equal"
    step = steps(source, target_dtype)
    if (equal | (target == np.rint(source / step) * step)).all() or (target == np.trunc(source / step) * step).all():
        return "rounded"
    if source_dtype != target_dtype and max(source_dtype.rounding, target_dtype.rounding) > 2.0**-20:
        # two roundings of one number that no file holds, as float16 and bfloat16 of a model in float32
        both = step + steps(source, source_dtype)
        if source_dtype.rounding > 2.0**-20 < target_dtype.rounding and (abs(target - source) <= both / 2).all():
            return "rounded"
    return None


def steps(values: Array, dtype: DType) -> Array:
    """The distance of each value to the next one that the dtype has."""
    mantissa, least = _bits(dtype)
    sizes = np.abs(values, dtype=np.float64)
    exponents = np.floor(np.log2(sizes, out=np.full(sizes.shape, float(least)), where=sizes > 0))
    return np.exp2(np.maximum(exponents, least) - mantissa)


def noise(values: Array, dtype: DType) -> float:
    """What rounding adds to values of this size: the root of the mean square."""
    return float(np.sqrt((steps(values, dtype) ** 2).mean() / 12)) if values.size else 0.0


def _bits(dtype: DType) -> tuple[int, int]:
    if dtype.name in _BITS:
        return _BITS[dtype.name]
    return (dtype.mini.mantissa, 1 - dtype.mini.bias) if dtype.mini is not None else _FLOAT32
