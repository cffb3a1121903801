"""The rotation and the scale that bring heads of B nearest to heads of A, and change nothing that they compute.

Q and K may be multiplied by R and its inverse transposed, V and the output likewise: what is between them cancels.
R is a scale times a rotation here (Procrustes; Schönemann, 1966), which a rotary embedding restricts to rotations of
the pairs of rows that it turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.lineage.positions import Positions
from qkvinspect.weights.reading import Array
from qkvinspect.weights.weight import Weight

Sides = tuple[Array, Array]
"""K and the Q of its heads one behind the other, or V and the output's inputs: [width, n] and [heads * width, n]."""

_SIMPLER = 1.5
"""A simpler change is taken where it comes about as near: what training turned is left as it is."""
_EXACT = 1e-6

FINE = 2.0**-16
"""What float32 loses where heads are rotated or rescaled."""


def rounding_of(weights: Iterable[Weight]) -> float:
    """The relative rounding of the coarsest dtype of some weights, ``FINE`` at least; nothing is allowed for codes."""
    return max((FINE, *(weight.dtype.rounding for weight in weights if weight.encoding is None)))


@dataclass(frozen=True, slots=True)
class ExactTurn:
    """What brings B's heads to A's.

    Attributes:
        rotation: [width, width], orthonormal; None: none.
        scale: of K or V; Q or the output is divided by it.
    """

    rotation: Array | None = None
    scale: float = 1.0

    def of(self, *, inverse: bool) -> Array | None:
        """What the rows of K or V are multiplied with; ``inverse``: those of Q or of the output."""
        if self.rotation is None:
            return None
        return self.rotation / self.scale if inverse else self.rotation * self.scale

    @property
    def rotated(self) -> bool:
        return self.rotation is not None and not np.array_equal(self.rotation, np.eye(len(self.rotation)))


STILL = ExactTurn()


def nearest_turn(a: Sides, b: Sides, positions: Positions) -> ExactTurn:
    """The simplest change of B's that comes about as near to A's as any, [width, n] each and [heads * width, n]."""
    width = len(a[0])
    both = [(np.asarray(one, np.float64), np.asarray(other, np.float64)) for one, other in zip(a, b, strict=True)]
    (shared_a, shared_b), (own_a, own_b) = both
    sizes = [float(np.linalg.norm(side)) for side in (shared_a, shared_b, own_a, own_b)]
    if not all(sizes):
        return STILL
    scale = float(np.sqrt(sizes[0] * sizes[3] / (sizes[1] * sizes[2])))
    stacked = own_a.reshape(-1, width, own_a.shape[1]), own_b.reshape(-1, width, own_b.shape[1])
    inner = scale * shared_a @ shared_b.T, np.einsum("hin,hjn->ij", *stacked, optimize=True) / scale
    rotation = nearest_rotation(inner[0] + inner[1], positions)
    tried = [ExactTurn(turn, size) for turn, size in product((None, rotation), (1.0, scale))]
    far = [_distance(both, one) for one in tried]
    best = max(min(far), _EXACT)
    chosen = next(one for one, distance in zip(tried, far, strict=True) if distance <= _SIMPLER * best)
    if chosen.rotation is None:
        return STILL if chosen.scale == 1.0 else ExactTurn(np.eye(width), chosen.scale)
    return chosen


def nearest_rotation(inner: Array, positions: Positions) -> Array:
    """The R that makes the trace of R^T ``inner`` greatest among those that are allowed, [width, width].

    Args:
        inner: A B^T of rows to be brought together.
    """
    found = np.zeros_like(inner)
    pairs = positions.pairs(len(inner))
    for i, j in pairs:
        angle = np.arctan2(inner[j, i] - inner[i, j], inner[i, i] + inner[j, j])
        cos, sin = np.cos(angle), np.sin(angle)
        found[np.ix_((i, j), (i, j))] = [[cos, -sin], [sin, cos]]
    turned = {row for pair in pairs for row in pair}
    free = [row for row in range(len(inner)) if row not in turned]
    if free:
        left, _, right = np.linalg.svd(inner[np.ix_(free, free)])
        found[np.ix_(free, free)] = left @ right
    return found


def _distance(both: Sequence[tuple[Array, Array]], turn: ExactTurn) -> float:
    """Of B's rows from A's, each side in sizes of A's."""
    total = 0.0
    for inverse, (a, b) in enumerate(both):
        matrix = turn.of(inverse=bool(inverse))
        rows = b.reshape(-1, len(both[0][0]), b.shape[1])
        moved = (rows / turn.scale if inverse else rows * turn.scale) if matrix is None else matrix @ rows
        total += float(np.linalg.norm(a - moved.reshape(a.shape)) ** 2 / np.linalg.norm(a) ** 2)
    return float(np.sqrt(total / 2))


def joined(heads: Sequence[Array]) -> Array:
    """Heads one behind the other."""
    return np.concatenate(heads)
