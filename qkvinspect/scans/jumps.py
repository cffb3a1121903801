"""Find jumps of a figure from one checkpoint to the next that exceed its usual changes.

What is looked at is the growth of the logarithm per step, so that neither size nor distance of checkpoints matters.
A jump differs from the median of the growths around it by more than eight times the greatest of three median
absolute deviations (made comparable with a standard deviation by 1.4826): of the growths around it, as warm-up bends
every curve; of its own series; and of all series of that part in the stack, as one quiet series is no yardstick.
Eight leaves normal noise out at any length of a run. And it changes the value by a quarter at least: what is less
does no harm. The first checkpoints are left out: nothing is known of what came before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log
from statistics import median

from qkvinspect.scans.series import Series

FEWEST = 8
"""Checkpoints that it takes."""

DEVIATIONS = 8.0
FACTOR = 1.25
_AROUND = 5
_FIRST = 3
_MAD = 1.4826


@dataclass(frozen=True, slots=True)
class Jump:
    """One of them.

    Attributes:
        step: of the checkpoint that differs.
        before: the value one checkpoint earlier.
        back: whether it soon jumps back.
    """

    step: int
    before: float
    after: float
    back: bool = False


def jumps(series: Series, stack: float) -> Iterator[Jump]:
    """Every jump; one back is part of the one before it.

    Args:
        stack: the scale of all series like this one.
    """
    rests = list(_rests(series))
    if not rests:
        return
    own = _spread([rest for _, rest, _ in rests])
    found: list[tuple[int, float]] = []
    for index, rest, around in rests:
        change = rest * (series.steps[index] - series.steps[index - 1])
        real = abs(log(series.values[index] / series.values[index - 1]))  # where all around moves, rest is no move
        if (
            index >= _FIRST
            and min(abs(change), real) > log(FACTOR)
            and abs(rest) > DEVIATIONS * max(own, around, stack)
        ):
            found.append((index, rest))
    last = -_AROUND - 1, 0.0
    for number, (index, rest) in enumerate(found):
        if index - last[0] <= _AROUND and rest * last[1] < 0:
            continue
        last = index, rest
        after = found[number + 1] if number + 1 < len(found) else None
        back = after is not None and after[0] - index <= _AROUND and after[1] * rest < 0
        yield Jump(series.steps[index], series.values[index - 1], series.values[index], back)


def scale(every: Iterable[Series]) -> float:
    """How far growths of all these series usually are from those around them."""
    return _spread([rest for series in every for _, rest, _ in _rests(series)])


def _rests(series: Series) -> Iterator[tuple[int, float, float]]:
    """Of each checkpoint but the first: how far its growth is from the median of those around, and their spread."""
    steps, values = series.steps, series.values
    if len(steps) < FEWEST or min(values) <= 0:
        return
    logs = [log(value) for value in values]
    rates = [(logs[i] - logs[i - 1]) / (steps[i] - steps[i - 1]) for i in range(1, len(logs))]
    for place, rate in enumerate(rates):
        near = [*rates[max(place - _AROUND, 0) : place], *rates[place + 1 : place + 1 + _AROUND]]
        usual = median(near)
        yield place + 1, rate - usual, _spread([other - usual for other in near])


def _spread(values: list[float]) -> float:
    """As a standard deviation, of most of them."""
    return _MAD * median(map(abs, values)) if values else 0.0
