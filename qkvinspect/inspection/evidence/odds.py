"""How probable scores are: under chance, and beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from math import exp

CHANCE = 1e-5
"""The probability with which weights without heads may seem to have some."""

TEMPERATURE = 4.0
"""By how much likelihoods overstate their case: real heads are not alike, and entries of a matrix not independent.
With it no wrong answer among 400 single layers, trained by others and by us, was surer than 0.96."""

LIKELY = 1e-3
"""That with which a layer without heads may seem to have those of its stack: nothing is claimed of it for that."""

_VIEWS = 2


def noise_of(variance: float, hypotheses: int, chance: float = CHANCE) -> float:
    """The score that the best of several hypotheses exceeds once in ``1 / chance`` times on noise.

    Args:
        variance: of the score on noise.
    """
    freedom = max(variance / 2, 1.0)
    step = 2 / (9 * freedom)  # Wilson and Hilferty's approximation of chi-square
    quantile = freedom * (1 - step + normal_quantile(1 - chance / _VIEWS / hypotheses) * step**0.5) ** 3
    return quantile - freedom


def normal_quantile(probability: float) -> float:
    """By what the standard library computes it with, where it is there: all of ``statistics`` takes 6 ms to import."""
    try:
        inverse: Callable[[float, float, float], float] = import_module("_statistics")._normal_dist_inv_cdf
    except (ImportError, AttributeError):
        from statistics import NormalDist

        return NormalDist().inv_cdf(probability)
    return inverse(probability, 0.0, 1.0)


def share_of(top: float, others: Sequence[float]) -> float:
    """The probability of the first, scores being twice a log-likelihood."""
    return 1 / (1 + sum(exp(min((score - top) / 2 / TEMPERATURE, 50.0)) for score in others))
