"""Whether heads of K and V are means of several of another checkpoint, as they are or turned upon each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qkvinspect.lineage.assignment import one_to_one
from qkvinspect.lineage.exact_turns import nearest_rotation
from qkvinspect.lineage.positions import Positions
from qkvinspect.weights.reading import Array

_FREE = Positions("none")


def by_own_factors(q: tuple[Array, Array], o: tuple[Array, Array]) -> dict[int, int]:
    """For each head of the second which of the first it is, by what rotations inside a head leave of Q and the output.

    K and V do not count: they are means, if it is so.
    """
    alike = sum(_grams_alike(*side) for side in (q, o))
    assert isinstance(alike, np.ndarray)
    return {theirs: ours for ours, theirs in one_to_one(alike)}


def _grams_alike(a: Array, b: Array) -> Array:
    """Cosines of rows^T rows of any two heads, [heads of A, heads of B]."""
    found = np.array([[(one @ other.T).ravel() @ (one @ other.T).ravel() for other in b] for one in a])
    sizes = [np.array([np.linalg.norm(one @ one.T) for one in side]) for side in (a, b)]
    return found / np.maximum(np.outer(*sizes), 1e-300)


def averaged(own: tuple[Array, Array], shared: tuple[Array, Array], heads: Mapping[int, int], noise: float) -> bool:
    """Whether each head of K (or V) of the second is a mean of those of the first whose users now use it.

    Args:
        own: Q (or the output) of both, [heads, width, n].
        shared: K or V of both, a view for each head that uses it.
        noise: how large what rounding leaves may be, in sizes of the rows.
    """
    turns: dict[int, Array] = {}
    for theirs, ours in heads.items():
        turn, size = _own_turn(own[0][ours], own[1][theirs])
        if _far(size * turn @ own[0][ours], own[1][theirs]) > noise:
            return False
        turns[theirs] = turn
    groups: dict[bytes, list[int]] = {}
    for theirs in heads:
        groups.setdefault(shared[1][theirs].tobytes(), []).append(theirs)
    return all(_is_mean([turns[one] @ shared[0][heads[one]] for one in some], shared[1][some[0]], noise)
               for some in groups.values())  # fmt: skip


def _own_turn(a: Array, b: Array) -> tuple[Array, float]:
    turn = nearest_rotation(b @ a.T, _FREE)
    size = float((a * a).sum())
    return turn, float(((turn @ a) * b).sum()) / size if size else 0.0


def _is_mean(parts: list[Array], mean: Array, noise: float) -> bool:
    rows = np.array([one.ravel() for one in parts])
    weights = np.linalg.lstsq(rows.T, mean.ravel(), rcond=None)[0]
    return _far((weights @ rows).reshape(mean.shape), mean) <= noise


def _far(made: Array, found: Array) -> float:
    size = float(np.linalg.norm(found))
    return float(np.linalg.norm(made - found)) / size if size else float(np.linalg.norm(made))
