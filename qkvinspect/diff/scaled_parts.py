"""Parts of B that are those of A times one number.

Scores are products of Q and K, and outputs of V and the output projection: where the numbers of two such parts undo
each other, the layer computes the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite

import numpy as np

from qkvinspect.diff.ordered_rows import Lines, tiles
from qkvinspect.diff.parts import Parts
from qkvinspect.weights.reading import Array

UNDOING = (("v", "out"), ("q", "k"))
"""Parts of which one can undo the number of the other."""

_LEAST = 2.0**-126
"""The smallest number of float32 and bfloat16 whose rounding is relative."""

_LEAST_OF_HALF = 2.0**-24
"""The distance of the small numbers of float16, which is the same for all of them."""


def factors(a: Parts, b: Parts, names: Iterable[str]) -> dict[str, float]:
    """Of each part of B that is A's times a number other than one, but for rounding, that number.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    with np.errstate(all="ignore"):
        found = {name: _factor(a[name], b[name]) for name in names if a[name].shape == b[name].shape}
    return {name: factor for name, factor in found.items() if factor is not None}


def bias_went_along(name: str, factor: float, a: Parts, b: Parts) -> bool:
    """Whether the bias of a part is A's times the same number, where there is one.

    That of the output projection is added to what comes out, and need not be.
    """
    before, after = a.get(f"{name}_bias"), b.get(f"{name}_bias")
    if name == "out" or (before is None and after is None):
        return True
    if before is None or after is None or before.shape != after.shape:
        return False
    with np.errstate(all="ignore"):
        return all(_is_times(before, after, factor, *_values(before, after, tile)) for tile in tiles(before, after))


def undo_each_other(first: str, second: str, found: Mapping[str, float], a: Parts, b: Parts) -> bool:
    """Whether both are A's times numbers whose product is one, and so are their biases."""
    if first not in found or second not in found:
        return False
    loose = max(_loose(a[name], b[name]) for name in (first, second))
    product = found[first] * found[second]
    return abs(product - 1) <= loose and all(bias_went_along(name, found[name], a, b) for name in (first, second))


def _factor(a: Lines, b: Lines) -> float | None:
    """The number by the first values that are not all zero; None as soon as others have another."""
    factor: float | None = None
    for tile in tiles(a, b):
        one, other = _values(a, b, tile)
        size = float((one * one).sum())
        if factor is None and size:
            factor = float((one * other).sum()) / size
            if not isfinite(factor) or not factor or abs(factor - 1) <= _loose(a, b):
                return None
        if not _is_times(a, b, factor or 0.0, one, other):
            return None
    return factor


def _values(a: Lines, b: Lines, tile: tuple[range, range]) -> tuple[Array, Array]:
    one, other = (np.asarray(side.values(side.words(*tile)), np.float64) for side in (a, b))
    return one, other


def _is_times(a: Lines, b: Lines, factor: float, one: Array, other: Array) -> bool:
    least = _LEAST_OF_HALF if "float16" in (a.dtype.name, b.dtype.name) else _LEAST
    due = one * factor
    return bool((np.abs(other - due) <= _loose(a, b) * np.abs(due) + least * max(abs(factor), 1)).all())


def _loose(a: Lines, b: Lines) -> float:
    """How far values may be off relative to them, each side being rounded, and the number as well."""
    return 2 * (a.dtype.rounding + b.dtype.rounding)
