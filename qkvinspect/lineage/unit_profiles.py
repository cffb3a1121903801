"""How alike each unit of A is to each of B, by what the paired heads read from it and write to it.

Units are described by their ties to the units of the basis alone, so that to number the tested units of B otherwise
is to put the columns of the result in another order, and changes nothing else.
"""

from __future__ import annotations

import numpy as np

from qkvinspect.lineage.compared_layers import PairedLayer
from qkvinspect.lineage.head_circuits import circuits, over
from qkvinspect.lineage.sampled_heads import SampledHeads
from qkvinspect.weights.reading import Array

_LEAST = 0.01
"""The weight of heads that are not alike: where none are, all count the same."""


class UnitProfiles:
    """Gathers likeness layer by layer: what is in memory does not grow with the model.

    Args:
        basis: how many units come first in what is added; the others are described.
    """

    def __init__(self, basis: int, tested: int) -> None:
        self._basis = basis
        self._products = np.zeros((tested, tested))
        self._squares = np.zeros((2, tested))

    def add(self, pair: PairedLayer, a: SampledHeads, b: SampledHeads) -> None:
        """Heads that look more alike in the basis weigh more."""
        tested, among = slice(self._basis, None), slice(0, self._basis)
        ours, theirs = ([head[side] for head in pair.heads] for side in (0, 1))
        alike = pair.alike
        weights = np.maximum([alike[head] for head in pair.heads], 0.0) + _LEAST
        for one, other in zip(circuits(a, tested, among), circuits(b, tested, among), strict=True):
            left, right = _scaled(one[ours], weights), _scaled(other[theirs], weights)
            self._products += np.einsum("hik,hjk->ij", left, right, optimize=True)
            self._squares += [(side**2).sum(axis=(0, 2)) for side in (left, right)]

    def similarity(self) -> Array:
        """Cosines, [units of A, units of B]."""
        return over(self._products, np.sqrt(np.outer(*self._squares)))


def _scaled(circuit: Array, weights: Array) -> Array:
    """Less the mean unit, each head as large as its weight says."""
    centred = circuit - circuit.mean(axis=1, keepdims=True)
    factors = over(np.sqrt(weights), np.linalg.norm(centred, axis=(1, 2)))
    return centred * factors[:, None, None]
