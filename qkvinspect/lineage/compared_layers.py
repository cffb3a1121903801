"""Which layer of B is which of A, and which head of it: by their circuits at the basis alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.lineage.assignment import Pairs, in_order, one_to_one
from qkvinspect.lineage.head_circuits import Signatures, cosines
from qkvinspect.weights.reading import Array

_SEED = 20251128
_STAYS = 0.15
"""How much more alike another head has to be than the one in the same place: of a head and its copy neither is."""
_SURE = 2.0
"""How many times as alike as chance has it two heads are that are surely one."""
_OF_USUAL = {"stranger": 0.2, "merged": 0.35, "kept": 0.4, "copied": 0.6}
"""The same in shares of how alike pairs of heads usually are here: one of two that were averaged is half as alike, and
so is one whose QK or OV is new. Between strangers and what was kept nothing is said."""


@dataclass(frozen=True, slots=True)
class PairedLayer:
    """A layer of A and one of B that are compared.

    Attributes:
        a, b: their places among the layers that can be compared.
        circuits: the cosines of any two heads, [QK and OV, heads of A, heads of B].
        empty: of A and of B, which circuits are zeros, [QK and OV, heads].
        heads: pairs of a head of A and one of B.
    """

    a: int
    b: int
    circuits: Array
    empty: tuple[Array, Array]
    heads: Pairs

    @property
    def alike(self) -> Array:
        """The mean cosine of both circuits, [heads of A, heads of B]."""
        return self.circuits.mean(axis=0)

    @property
    def likeness(self) -> float:
        """The mean cosine of the pairs."""
        alike = self.alike
        return float(np.mean([alike[pair] for pair in self.heads]))


@dataclass(frozen=True, slots=True)
class LayerPairs:
    """How the layers of two models lie beside each other.

    Attributes:
        paired: in the order of both, then those that lie in another order.
        chance: how alike two heads can look that have nothing to do with each other; chance_of_circuits: by QK or OV
            alone; chance_of_layers: two layers.
        usual: how alike pairs of heads are that are more so than chance has it.
        every: the cosines of the heads of any two layers, as ``circuits``.
        alike: how alike the layers are, [layers of A, layers of B]: the mean cosine of their heads, paired one to one.
        empty: of A and of B, which layers are zeros.
    """

    paired: tuple[PairedLayer, ...]
    chance: float
    chance_of_circuits: float
    chance_of_layers: float
    usual: float
    every: Sequence[Sequence[Array]]
    alike: Array
    empty: tuple[Sequence[bool], Sequence[bool]]

    def least(self, what: Literal["stranger", "merged", "kept", "copied"]) -> float:
        """How alike two heads have to be for it, or for more than strangers."""
        own = self.chance if what == "stranger" else _sure(self.chance)
        return max(own, _OF_USUAL[what] * self.usual)

    @property
    def known_circuit(self) -> float:
        """How alike the QK of two heads, or their OV, have to be for more than strangers."""
        return max(self.chance_of_circuits, _OF_USUAL["stranger"] * self.usual)

    @property
    def sure_circuit(self) -> float:
        """The same for what is surely one, whatever the other circuit is."""
        return max(_sure(self.chance_of_circuits), _OF_USUAL["copied"] * self.usual)


def pair_layers(a: Sequence[Signatures], b: Sequence[Signatures], basis: int) -> LayerPairs:
    """Pair the layers of two models, and their heads.

    What chance gives is seen from B with its units in another order.
    """
    every = [[cosines(one, other) for other in b] for one in a]
    alike = _means(every)
    order = np.random.default_rng(_SEED).permutation(basis)
    shuffled = [_in_order(one, order) for one in b]
    by_chance = [[cosines(one, other) for other in shuffled] for one in a]
    chance_of_layers = float(_means(by_chance).max())
    chance = max(0.0, *(float(found.mean(axis=0).max()) for row in by_chance for found in row))
    of_circuits = max(float(found.max()) for row in by_chance for found in row)
    sure = _sure(chance)
    scores = alike - (sure if (alike > sure).any() else chance_of_layers)
    paired = in_order(_rather_in_place(scores))
    paired = (*paired, *_elsewhere(scores, paired))
    if not paired:  # nothing in common: as they come
        paired = tuple((at, at) for at in range(min(len(a), len(b))))
    layers = tuple(PairedLayer(i, j, every[i][j], (a[i].empty, b[j].empty), _heads(every[i][j])) for i, j in paired)
    empty = [bool(one.empty.all()) for one in a], [bool(one.empty.all()) for one in b]
    known = [one for layer in layers for pair in layer.heads if (one := float(layer.alike[pair])) > sure]
    usual = float(np.median(known)) if known else 0.0
    return LayerPairs(layers, chance, of_circuits, chance_of_layers, usual, every, alike, empty)


def _heads(circuits: Array) -> Pairs:
    """One to one; of a head and its copy, or of two that have a circuit of it each, the one in the same place."""
    return one_to_one(_rather_in_place(circuits.mean(axis=0), circuits.max(axis=0)))


def _rather_in_place(scores: Array, known_by: Array | None = None) -> Array:
    return scores + _STAYS * np.maximum(scores if known_by is None else known_by, 0) * np.eye(*scores.shape)


def _sure(chance: float) -> float:
    return min(_SURE * chance, (1 + chance) / 2)


def _elsewhere(scores: Array, paired: Pairs) -> Pairs:
    """Pairs of what is left: a file may have its stacks of layers in another order."""
    taken = [{pair[side] for pair in paired} for side in (0, 1)]
    rows, cols = ([at for at in range(scores.shape[side]) if at not in taken[side]] for side in (0, 1))
    left = scores[np.ix_(rows, cols)]
    return tuple((rows[i], cols[j]) for i, j in one_to_one(left) if left[i, j] > 0)


def _means(every: Sequence[Sequence[Array]]) -> Array:
    return np.array([[_mean(one.mean(axis=0)) for one in row] for row in every])


def _mean(alike: Array) -> float:
    return float(np.mean([alike[pair] for pair in one_to_one(alike)]))


def _in_order(one: Signatures, order: Array) -> Signatures:
    units = len(order)
    qk, ov = (flat.reshape(-1, units, units)[:, order][:, :, order].reshape(flat.shape) for flat in (one.qk, one.ov))
    return Signatures(qk, ov)
