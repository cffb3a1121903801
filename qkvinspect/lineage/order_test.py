"""Whether the units of two models stand in the same order by chance: a p-value that needs no data.

A model that was started afresh numbers its units at random, and training treats all numbers alike. So whichever unit
of B is most like each of A's, the assignment is a permutation that is as likely as any other, and the number of units
that are found in their own places has a known law: it is at least k with a probability of about 1 / k!. This was
thought of as in "Independence Tests for Language Models" (Zhu, Ahmed, Kuditipudi and Liang, 2025), which tests the
rank correlation of such permutations; the number of fixed points finds a kinship of which little is left, too.

Among permutations with as many fixed points, those are as extreme whose units are at least as like their namesakes;
their share is estimated from some that are drawn. So the p-value is uniform, and never too small, where the two
models are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, lgamma

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.lineage.assignment import one_to_one
from qkvinspect.weights.reading import Array

_DRAWS = 4000
_SEED = 20251128
_LEAST = 1e-300
"""What is smaller is said to be so: products of many small chances are none that floats hold."""


@dataclass(frozen=True, slots=True)
class OrderTest:
    """What the order of units says.

    Attributes:
        units: how many were tested.
        in_place: how many of A's are most like those of B that have their numbers.
        p_value: the probability of so many, or more, where the two were started independently.
        least: the smallest p-value that so few units can give.
    """

    units: int
    in_place: int
    p_value: float
    least: float


def order_test(similarities: Sequence[Array]) -> OrderTest:
    """Of families of units, each [units of A, units of B] in the order of their numbers.

    Each family is numbered by itself, independently of the others.
    """
    told = [one for one in similarities if one.any()]
    units = sum(map(len, told))
    if not told:
        return OrderTest(0, 0, 1.0, 1.0)
    assigned = [np.array([col for _, col in one_to_one(one)]) for one in told]
    in_place = sum(int((one == np.arange(len(one))).sum()) for one in assigned)
    law = fixed_points([len(one) for one in told])
    share = _share(told, assigned, in_place)
    p_value = min(max(float(law[in_place + 1 :].sum() + law[in_place] * share), _LEAST), 1.0)
    return OrderTest(units, in_place, p_value, float(law[-1]))


def fixed_points(sizes: Sequence[int]) -> Array:
    """The probability of each number of fixed points, of independent random permutations of these sizes together."""
    law = np.ones(1)
    for size in sizes:
        law = np.convolve(law, [_exactly(size, count) for count in range(size + 1)])
    return law


def _exactly(units: int, count: int) -> float:
    """The share of all permutations that leave just so many in their places."""
    derangements = sum((-1) ** k * exp(-lgamma(k + 1)) for k in range(units - count + 1))
    return max(derangements, 0.0) * exp(-lgamma(count + 1))


def _share(similarities: Sequence[Array], assigned: Sequence[Array], in_place: int) -> float:
    """Of permutations with as many fixed points, those in which units are at least as like their namesakes."""
    generator = np.random.default_rng(_SEED)
    seen = sum(float(np.trace(one)) for one in similarities)
    fixed, likeness = np.zeros(_DRAWS, int), np.zeros(_DRAWS)
    for one, order in zip(similarities, assigned, strict=True):
        places = np.arange(len(order))
        drawn = generator.permuted(np.tile(places, (_DRAWS, 1)), axis=1)
        fixed += (drawn == places).sum(axis=1)
        likeness += one[places, order[drawn]].sum(axis=1)
    alike = likeness[fixed == in_place]
    return (int((alike >= seen - 1e-9).sum()) + 1) / (len(alike) + 1)
