"""Which layer of B is which of A, and which head of it: by their circuits at the basis alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.lineage.assignment import Pairs, in_order, one_to_one
from qkvinspect.lineage.head_circuits import Signatures, cosines
from qkvinspect.weights.reading import Array

_SEED = 20251128


@dataclass(frozen=True, slots=True)
class PairedLayer:
    """A layer of A and one of B that are compared.

    Attributes:
        a, b: their places among the layers that can be compared.
        alike: the cosine of any two heads, [heads of A, heads of B].
        heads: pairs of a head of A and one of B.
    """

    a: int
    b: int
    alike: Array
    heads: Pairs

    @property
    def likeness(self) -> float:
        """The mean cosine of the pairs."""
        return float(np.mean([self.alike[pair] for pair in self.heads]))


@dataclass(frozen=True, slots=True)
class LayerPairs:
    """How the layers of two models lie beside each other.

    Attributes:
        paired: in the order of both, then those that lie in another order.
        chance: how alike two heads can look that have nothing to do with each other; chance_of_layers: two layers.
        alike: how alike the layers are, [layers of A, layers of B]: the mean cosine of their heads, paired one to one.
    """

    paired: tuple[PairedLayer, ...]
    chance: float
    chance_of_layers: float
    alike: Array


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
    chance = max(float(found.max()) for row in by_chance for found in row)
    paired = in_order(alike - chance_of_layers)
    paired = (*paired, *_elsewhere(alike - chance_of_layers, paired))
    if not paired:  # nothing in common: as they come
        paired = tuple((at, at) for at in range(min(len(a), len(b))))
    layers = tuple(PairedLayer(i, j, every[i][j], one_to_one(every[i][j])) for i, j in paired)
    return LayerPairs(layers, chance, chance_of_layers, alike)


def _elsewhere(scores: Array, paired: Pairs) -> Pairs:
    """Pairs of what is left: a file may have its stacks of layers in another order."""
    taken = [{pair[side] for pair in paired} for side in (0, 1)]
    rows, cols = ([at for at in range(scores.shape[side]) if at not in taken[side]] for side in (0, 1))
    left = scores[np.ix_(rows, cols)]
    return tuple((rows[i], cols[j]) for i, j in one_to_one(left) if left[i, j] > 0)


def _means(every: Sequence[Sequence[Array]]) -> Array:
    return np.array([[np.mean([one[pair] for pair in one_to_one(one)]) for one in row] for row in every])


def _in_order(one: Signatures, order: Array) -> Signatures:
    units = len(order)
    qk, ov = (flat.reshape(-1, units, units)[:, order][:, :, order].reshape(flat.shape) for flat in (one.qk, one.ov))
    return Signatures(qk, ov)
