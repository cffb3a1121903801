"""Which rows of a head a rotary embedding turns together: halves (i, i + d/2) or neighbours (2i, 2i + 1).

Rotary embeddings tie each row of Q to the same row and to one other of K: those two turn together. So the
similarity of a row of Q with the partner of its own row in K follows a law of its own. Nothing else does that:
in models without rotary embeddings such pairs are like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.evidence.likelihood import fitted
from qkvinspect.inspection.evidence.sample import Sample
from qkvinspect.layouts.layout import Turn
from qkvinspect.weights.reading import Array

ENOUGH = 30.0
"""The score from which a pairing counts as real: in models without rotary embeddings none was over 15."""

AHEAD = 20.0
"""By how much it must exceed the best of the other kind."""


class Pairing(NamedTuple):
    """A way to turn a head.

    Attributes:
        turn: which rows turn together.
        first: how many rows are turned at all; None: the whole head.
    """

    turn: Turn
    first: int | None = None

    @property
    def label(self) -> str:
        """For people: ``halves of the first 32 rows``."""
        return self.turn if self.first is None else f"{self.turn} of the first {self.first} rows"


def pairings(width: int) -> dict[Pairing, tuple[Array, Array]]:
    """The pairs of rows under each way to turn a head of ``width`` rows, or its first half or quarter."""
    found: dict[Pairing, tuple[Array, Array]] = {}
    for turned in (width, width // 2, width // 4):
        if turned < 4 or turned % 2:
            continue
        rows = np.arange(turned // 2)
        first = None if turned == width else turned
        found[Pairing("halves", first)] = rows, rows + turned // 2
        found[Pairing("neighbours", first)] = 2 * rows, 2 * rows + 1
    return found


def score(samples: Sequence[Sample], index: Mapping[str, Array]) -> dict[Pairing, float]:
    """Twice the gain in log-likelihood of each pairing, less what chance gives; empty where it cannot be asked."""
    if "q" not in index or "k" not in index or any(one.stride > 1 for one in samples):
        return {}
    width = index["k"].shape[1]
    if index["q"].shape[1] != width:  # latent attention: those of K that are turned lie elsewhere
        return {}
    totals = dict.fromkeys(pairings(width), 0.0)
    of_all = dict(totals)
    for sample in samples:
        if sample.spaces[index["q"].flat[0]] != sample.spaces[index["k"].flat[0]]:
            return {}
        forward, backward = _crossed(sample, index)
        above = np.triu(np.ones((width, width), bool), 1)
        for pairing, (first, second) in pairings(width).items():
            chosen = np.zeros((width, width), bool)
            chosen[first, second] = True
            turned = pairing.first or width
            among = above.copy()
            among[turned:] = among[:, turned:] = False
            totals[pairing] += gain(forward, backward, chosen, among & ~chosen)
            of_all[pairing] += gain(forward, backward, chosen, above & ~chosen)
    return _less_what_fewer_explain(totals, of_all)


def _less_what_fewer_explain(totals: dict[Pairing, float], of_all: Mapping[Pairing, float]) -> dict[Pairing, float]:
    """Pairs of neighbours are among those of more rows, which stand out by them even where no other row is turned.

    Args:
        of_all: the scores over the same similarities, all of a head, by which the pairings compare as they are.
    """
    for few, more in pairwise([one for one in totals if one.turn == "neighbours"][::-1]):  # the fewest rows first
        if of_all[few] > of_all[more]:
            totals[more] = min(totals[more], totals[few] + of_all[more] - of_all[few])
    return totals


def _crossed(sample: Sample, index: Mapping[str, Array]) -> tuple[Array, Array]:
    """For every query head, its similarities with its K: [heads, q row, k row] and the same transposed."""
    q, k = index["q"], index["k"]
    share = len(q) // len(k)
    forward = np.stack([sample.scores[np.ix_(rows, k[head // share])] for head, rows in enumerate(q)])
    return forward, forward.transpose(0, 2, 1)


def gain(forward: Array, backward: Array, chosen: Array, rest: Array) -> float:
    """Twice the gain in log-likelihood if the chosen pairs follow a law of their own, less what chance gives."""
    first, second = _moments(forward, backward, chosen), _moments(forward, backward, rest)
    together = first[0] + second[0], first[1] + second[1]
    gained = fitted(*first) + fitted(*second) - fitted(*together)
    return float(gained.score)


def _moments(forward: Array, backward: Array, mask: Array) -> tuple[float, Array]:
    x, y = forward[:, mask].astype(np.float64), backward[:, mask].astype(np.float64)
    sums = [x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]
    return float(x.size), np.array(sums)
