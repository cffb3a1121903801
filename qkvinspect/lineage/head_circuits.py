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
    """The circuits of each head in the basis of some units, centred and of norm 1; zeros for a head of zeros.

    Attributes:
        qk, ov: float32 [heads, units * units].
    """

    qk: Array
    ov: Array

    @property
    def heads(self) -> int:
        return len(self.qk)


def circuits(heads: SampledHeads, down: slice, across: slice) -> Iterator[Array]:
    """QK, QK transposed, OV and OV transposed of each head between some units and others: [heads, down, across]."""
    for left, right in ((heads.q, heads.k), (heads.k, heads.q), (heads.o, heads.v), (heads.v, heads.o)):
        yield np.matmul(left[:, :, down].transpose(0, 2, 1), right[:, :, across])


def signatures(heads: SampledHeads, basis: int) -> Signatures:
    """Those of a layer in the terms of its first ``basis`` units."""
    among = slice(0, basis)
    qk, _, ov, _ = circuits(heads, among, among)
    return Signatures(_unit(_centred(qk)), _unit(_centred(ov)))


def cosines(a: Signatures, b: Signatures) -> Array:
    """How alike the heads of two layers are, [heads of A, heads of B]: the mean of both circuits' cosines."""
    return ((a.qk @ b.qk.T + a.ov @ b.ov.T) / 2).astype(np.float64)


def _centred(circuit: Array) -> Array:
    """Without what the heads of the layer have in common, each counted by its direction alone."""
    flat = circuit.reshape(len(circuit), -1)
    unit = _unit(flat)
    if len(unit) < 3:  # two heads would become each other's negative
        return unit
    common = unit.mean(axis=0)
    size = float(common @ common)
    return unit - np.outer(unit @ common, common) / size if size > 0 else unit


def _unit(rows: Array) -> Array:
    return over(rows, np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def over(values: Array, sizes: Array) -> Array:
    """Values divided by sizes; zero where a size is, as what has none points nowhere."""
    return np.divide(values, sizes, out=np.zeros_like(values), where=sizes > 0)
