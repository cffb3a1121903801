"""How well a normal distribution fits entries of which the moments are known, and what it would be on noise."""

from __future__ import annotations

from functools import lru_cache
from math import log

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.reading import Array

FEW = 4
"""Entries that a class needs; a hypothesis with a smaller one cannot be weighed."""


_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class Fitted:
    """How well a normal distribution fits entries, and how well it would if they were nothing but noise.

    Attributes:
        value: twice the log-likelihood of the fitted distribution, up to a constant an entry; of several layers, of
            each.
        expected, variance: of that on noise, of one layer: exact also for few entries, unlike degrees of freedom.
    """

    value: float | Array = 0.0
    expected: float = 0.0
    variance: float = 0.0

    def __add__(self, other: Fitted) -> Fitted:
        return Fitted(self.value + other.value, self.expected + other.expected, self.variance + other.variance)

    def __sub__(self, other: Fitted) -> Fitted:
        """The gain over a distribution that this one refines."""
        return Fitted(self.value - other.value, self.expected - other.expected, self.variance - other.variance)

    @property
    def score(self) -> float | Array:
        """Twice the log-likelihood, less what it would be on noise."""
        return self.value - self.expected

    def of_layer(self, number: int) -> Fitted:
        """That of one of several layers; of what all have in common, the same."""
        return self.of_layers(number, 1)

    def of_layers(self, start: int, count: int) -> Fitted:
        """That of some of several layers, side by side."""
        value = self.value
        if isinstance(value, np.ndarray):
            value = float(value[start]) if count == 1 else value[start : start + count]
        return Fitted(value, self.expected, self.variance)

    @property
    def of_all(self) -> Fitted:
        """That of all layers together."""
        layers = np.size(self.value)
        return Fitted(float(np.sum(self.value)), layers * self.expected, layers * self.variance)


def fitted(count: float, moments: Array, *, given: bool = False) -> Fitted:
    """Fit entries that share a normal distribution.

    Args:
        moments: as in ``BlockSums``.
        given: of y where x is known, for two matrices.
    """
    if count < FEW:
        return Fitted()
    if moments.ndim > 1:
        return Fitted(_values(count, moments, given=given), *_on_noise(count, _lost(len(moments), given=given)))
    mean: list[float] = [moment / count for moment in moments.tolist()]  # plain numbers: numpy's are slow one by one
    if len(mean) == 2:
        spread = mean[1] - mean[0] ** 2
    else:
        x, y, both = mean[2] - mean[0] ** 2, mean[3] - mean[1] ** 2, mean[4] - mean[0] * mean[1]
        spread = y - both * both / max(x, _FLOOR) if given else x * y - both * both
    lost = _lost(len(mean), given=given)
    value = -count * log(max(spread, _FLOOR ** len(lost)))
    return Fitted(value, *_on_noise(count, lost))


def scores_of(count: float, moments: Array, *, given: bool = False) -> Array:
    """``value`` less ``expected`` of ``fitted``, for each of many sets of so many entries: moments [2 or 5, ...]."""
    if count < FEW:
        return np.zeros(moments.shape[1:])
    return _values(count, moments, given=given) - _on_noise(count, _lost(len(moments), given=given))[0]


def _values(count: float, moments: Array, *, given: bool) -> Array:
    mean = moments / count
    if len(mean) == 2:
        spread = mean[1] - mean[0] ** 2
    else:
        x, y, both = mean[2] - mean[0] ** 2, mean[3] - mean[1] ** 2, mean[4] - mean[0] * mean[1]
        spread = y - both * both / np.maximum(x, _FLOOR) if given else x * y - both * both
    return -count * np.log(np.maximum(spread, _FLOOR ** len(_lost(len(mean), given=given))))


def _lost(moments: int, *, given: bool) -> tuple[int, ...]:
    """How many degrees of freedom the variances lose that are fitted."""
    return (1,) if moments == 2 else (2,) if given else (1, 2)


@lru_cache(maxsize=4096)
def _on_noise(count: float, lost: tuple[int, ...]) -> tuple[float, float]:
    """Mean and variance of the fit of so many entries of noise, that lost so many degrees of freedom."""
    expected = -count * sum(_digamma((count - n) / 2) - log(count / 2) for n in lost)
    return expected, count * count * sum(_trigamma((count - n) / 2) for n in lost)


def _digamma(x: float) -> float:
    """The mean of the logarithm of a gamma variable."""
    total = 0.0
    while x < 6:
        total -= 1 / x
        x += 1
    return total + log(x) - 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4) - 1 / (252 * x**6)


def _trigamma(x: float) -> float:
    """The variance of the logarithm of a gamma variable."""
    total = 0.0
    while x < 6:
        total += 1 / x**2
        x += 1
    return total + 1 / x + 1 / (2 * x**2) + 1 / (6 * x**3) - 1 / (30 * x**5) + 1 / (42 * x**7)
