"""The circuits of a layer's heads at a few residual units, and how alike those of two layers are.

W_Q^T W_K and W_O W_V of a head say all that it computes. They stay what they are when heads change places, when a
head is rotated inside, and when Q is scaled against K or V against the output.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.lineage.sampled_heads import SampledHeads
from qkvinspect.weights.reading import Array


@dataclass(frozen=True, slots=True)
class Signatures:
    """The circuits of each head in the basis of some units, of norm 1; zeros for a head of zeros.

    Attributes:
        qk, ov: float32 [heads, units * units].
    """

    qk: Array
    ov: Array

    @property
    def empty(self) -> Array:
        """Which circuits are zeros, [2, heads]: QK and OV."""
        return np.array([~circuit.any(axis=1) for circuit in (self.qk, self.ov)])


def circuits(heads: SampledHeads, down: slice, across: slice) -> Iterator[Array]:
    """QK, QK transposed, OV and OV transposed of each head between some units and others: [heads, down, across]."""
    for left, right in ((heads.q, heads.k), (heads.k, heads.q), (heads.o, heads.v), (heads.v, heads.o)):
        yield np.matmul(left[:, :, down].transpose(0, 2, 1), right[:, :, across])


def signatures(heads: SampledHeads, basis: int) -> Signatures:
    """Those of a layer in the terms of its first ``basis`` units."""
    among = slice(0, basis)
    qk, _, ov, _ = circuits(heads, among, among)
    return Signatures(*(_unit(circuit.reshape(len(circuit), -1)) for circuit in (qk, ov)))


def cosines(a: Signatures, b: Signatures) -> Array:
    """How alike the heads of two layers are by QK and by OV, [2, heads of A, heads of B]."""
    return np.array([_cosines(*sides) for sides in ((a.qk, b.qk), (a.ov, b.ov))], np.float64)


def _cosines(a: Array, b: Array) -> Array:
    """Without the direction that the heads of both layers have in common.

    It is one for both: what two layers have in common with their other heads must not make strangers alike.
    """
    across = (a @ b.T).astype(np.float64)
    if min(len(a), len(b)) < 3:  # two heads would become each other's negative
        return across
    common = a.mean(axis=0) + b.mean(axis=0)
    size = float(common @ common)
    if size == 0:
        return across
    ours, theirs = ((side @ common).astype(np.float64) / np.sqrt(size) for side in (a, b))
    left = [np.sqrt(np.maximum((side**2).sum(axis=1) - along**2, 0)) for side, along in ((a, ours), (b, theirs))]
    left = [np.where(one < 1e-3, 0, one) for one in left]  # it is nothing but what all have in common
    return over(across - np.outer(ours, theirs), np.outer(*left))


def _unit(rows: Array) -> Array:
    return over(rows, np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def over(values: Array, sizes: Array) -> Array:
    """Values divided by sizes; zero where a size is, as what has none points nowhere."""
    return np.divide(values, sizes, out=np.zeros_like(values), where=sizes > 0)
