"""Whether rows of numbers are others that were rounded to codes, whether the codes are stored or were decoded again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkvinspect.weights.reading import Array

_SURE = 1.001
_OF_SCALE = 2.0**-10
"""The scales of codes are rounded, too, often to float16."""
_GROUPS = (512, 256, 128, 64, 32, 16, 8)
_LEVELS = 300
_FEWER = 0.85


def within_steps(source: Array, target: Array, slack: Array | None) -> bool:
    """Whether codes that are stored mean what ``source`` has, but for their steps."""
    room = 0.0 if slack is None else slack * _SURE
    return bool((np.abs(target - source) <= room + np.abs(source) * _OF_SCALE).all())


def of_few_levels(source: Array, target: Array, rounding: float) -> bool:
    """Whether each row, or each group of neighbours in it, has few values, in the order of those of ``source``.

    Args:
        rounding: of the dtype that the decoded values are stored in.
    """
    if source.shape != target.shape or not source.size:
        return False
    sizes = (source.shape[1], *(size for size in _GROUPS if size < source.shape[1]))
    return any(_coded([*zip(_cut(source, size), _cut(target, size), strict=True)], rounding) for size in sizes)


def _cut(rows: Array, size: int) -> list[Array]:
    """Groups of neighbours; what is left over at the end of a row is too short to say anything."""
    return [row[at : at + size] for row in rows for at in range(0, len(row) - size + 1, size)]


def _coded(groups: Sequence[tuple[Array, Array]], rounding: float) -> bool:
    before = after = 0
    for source, target in groups:
        order = np.lexsort((target, source))
        coded = target[order]
        if (np.diff(coded) < 0).any():
            return False
        levels = np.unique(coded)
        if not _on_a_grid(levels, source[order], coded, rounding):
            before, after = before + len(np.unique(source)), after + len(levels)
    return after <= _FEWER * before


def _on_a_grid(levels: Array, source: Array, coded: Array, rounding: float) -> bool:
    """Whether values are multiples of a step from which those of the source are half a step away at most.

    Beyond the outermost codes they may lie anywhere: 4 bits have -8, but no 8.
    """
    if len(levels) < 3:
        return True
    smallest = float(np.diff(levels).min())
    inner = (coded > levels[0]) & (coded < levels[-1])
    for parts in (1, 2, 3, 4):
        step = smallest / parts
        counts = (levels - levels[0]) / step
        if counts[-1] > _LEVELS:
            return False
        off = 0.02 + rounding * counts[-1]
        if off < 0.3 and (np.abs(counts - np.rint(counts)) <= off).all():
            return bool((np.abs(source - coded)[inner] <= step * (0.5 * _SURE + off)).all())
    return False
