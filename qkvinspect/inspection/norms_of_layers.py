"""The norms of many modules by column, without making those of which nothing else is asked."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.repeated import RepeatedAttention
from qkvinspect.inspection.report import Attention


class NormsOfLayers(NamedTuple):
    """What is shown of each of some modules.

    Attributes:
        columns: the norms of each part, then of their biases; None for what has none.
        nonfinite: how many values of the parts and of their biases are not finite; None where none was looked at.
    """

    columns: Sequence[Sequence[float | None]]
    nonfinite: Sequence[int | None]


def norms_of(modules: Sequence[Attention], names: Sequence[str]) -> NormsOfLayers:
    """Those of modules, one after another.

    Args:
        names: of the parts.
    """
    columns: list[list[float | None]] = [[] for _ in range(2 * len(names))]
    nonfinite: list[int | None] = []
    done = 0
    while done < len(modules):
        one, count = modules[done], _measured_together(modules, done, names)
        if isinstance(one, RepeatedAttention) and count:
            places = slice(one.place, one.place + count)
            for number, column in enumerate(columns):
                norms = None if one.norms is None else one.norms.column(number, places)
                column.extend([None] * count if norms is None else norms)
            nonfinite += [None if one.norms is None else 0] * count
        else:
            parts = [one.part(name) for name in names]
            measures = [*(part and part.measured for part in parts), *(part and part.bias_measured for part in parts)]
            for column, measure in zip(columns, measures, strict=True):
                column.append(measure and measure.norm)
            counted = [measure.nonfinite for measure in measures if measure is not None]
            nonfinite.append(sum(counted) if counted else None)
        done += count or 1
    return NormsOfLayers(columns, nonfinite)


def _measured_together(modules: Sequence[Attention], first: int, names: Sequence[str]) -> int:
    """How many modules from there on are such of which nothing but norms need be known, and these stand together."""
    one = modules[first]
    if not isinstance(one, RepeatedAttention) or one.stack.parts != names:
        return 0
    stack, norms, place = one.stack, one.norms, one.place
    for number in range(first + 1, len(modules)):
        other = modules[number]
        place += 1
        if not isinstance(other, RepeatedAttention) or other.stack is not stack or other.norms is not norms:
            return number - first
        if norms is not None and other.place != place:
            return number - first
    return len(modules) - first
