"""How far each head of B lies from the head of A that it was paired with, and which way."""

from __future__ import annotations

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.lineage.sampled_heads import SampledHeads
from qkvinspect.weights.reading import Array


@dataclass(frozen=True, slots=True)
class Inner:
    """Inner products of a circuit of A and one of B, at the units that were read."""

    aa: float
    bb: float
    ab: float

    @property
    def moved(self) -> float:
        """The distance of B's circuit from A's, in sizes of A's; 0 where both are zero."""
        if not self.aa:
            return 0.0 if not self.bb else float("inf")
        return float(np.sqrt(max(self.aa + self.bb - 2 * self.ab, 0.0) / self.aa))

    @property
    def apart(self) -> float:
        """The squared distance in the size of both, which adds up along a line of descent."""
        size = float(np.sqrt(self.aa * self.bb))
        return max(self.aa + self.bb - 2 * self.ab, 0.0) / size if size else 0.0

    @property
    def cosine(self) -> float:
        size = float(np.sqrt(self.aa * self.bb))
        return self.ab / size if size else 0.0


def inner_products(a: SampledHeads, b: SampledHeads, one: int, other: int) -> tuple[Inner, Inner]:
    """Of the QK circuits of two heads, and of their OV circuits."""
    qk = ((a.q[one], a.k[one]), (b.q[other], b.k[other]))
    ov = ((a.o[one], a.v[one]), (b.o[other], b.v[other]))
    return _inner(*qk), _inner(*ov)


def _inner(a: tuple[Array, Array], b: tuple[Array, Array]) -> Inner:
    return Inner(_product(a, a), _product(b, b), _product(a, b))


def _product(a: tuple[Array, Array], b: tuple[Array, Array]) -> float:
    """<left_a^T right_a, left_b^T right_b>, on thin factors alone."""
    return float(((a[0] @ b[0].T) * (a[1] @ b[1].T)).sum())
