"""Whether a model's residual units are numbered by chance, which their order must be to say anything of kinship.

Sinusoidal positions that are added to the embedding number them: neighbours then do the same. Nothing but the model
itself is needed to see it.
"""

from __future__ import annotations

import numpy as np

from qkvinspect.lineage.head_circuits import circuits, over
from qkvinspect.lineage.sampled_heads import SampledHeads
from qkvinspect.weights.reading import Array

_DRAWS = 1999
_ENOUGH = 20
"""Orders that look as well as the one there is, after which no more are drawn (Besag and Clifford, 1991)."""
_SEED = 20251128
_REACH = 2.0
SUSPICIOUS = 0.005


class UnitNumbering:
    """Gathers over layers how alike a model's own tested units are."""

    def __init__(self, basis: int, tested: int) -> None:
        self._basis = basis
        self._gram = np.zeros((tested, tested))

    def add(self, heads: SampledHeads) -> None:
        for circuit in circuits(heads, slice(self._basis, None), slice(0, self._basis)):
            centred = circuit - circuit.mean(axis=1, keepdims=True)
            sizes = np.linalg.norm(centred, axis=(1, 2))
            scaled = centred[sizes > 0] / sizes[sizes > 0][:, None, None]
            across = scaled.transpose(1, 0, 2).reshape(len(self._gram), -1)
            self._gram += across @ across.T

    def p_value(self) -> float:
        """The chance that units whose numbers are neighbours are so much alike, if numbers mean nothing."""
        sizes = np.sqrt(np.maximum(np.diagonal(self._gram), 0))
        alike = over(self._gram, np.outer(sizes, sizes))
        near = _nearness(len(alike))
        seen = float((near * alike).sum())
        generator = np.random.default_rng(_SEED)
        as_much = 0
        for draw in range(1, _DRAWS + 1):
            order = generator.permutation(len(alike))
            as_much += float((near * alike[np.ix_(order, order)]).sum()) >= seen
            if as_much == _ENOUGH:
                return as_much / draw
        return (as_much + 1) / (_DRAWS + 1)


def _nearness(units: int) -> Array:
    places = np.arange(units)
    near = np.exp(-np.abs(places[:, None] - places) / _REACH)
    np.fill_diagonal(near, 0)
    return near
