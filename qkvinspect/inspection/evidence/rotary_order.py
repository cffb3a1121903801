"""Infer the order of the rows in each head of Q and K from which of them a rotary embedding turns together.

Of a head whose rows are in halves, as transformers has them, row i and row i + d/2 turn together. Converters put
them in turns: 0, d/2, 1, d/2 + 1 and so on. They do so to Q and to K, and each may have been forgotten, done twice,
undone where nothing was to undo, or done to K as if it had as many heads as Q.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal

import numpy as np

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.evidence.rotary_sample import (
    Array,
    Samples,
    circuit_score,
    left_over,
    sampled,
    smoothness,
    tied,
)
from qkvinspect.inspection.report import Attention, Part

Order = Literal["halves", "neighbours", "twice", "undone", "with the heads of Q"]
"""The order of a head's rows: as transformers has them, permuted, permuted twice, the inverse applied to halves, or
permuted with Q's number of heads."""

_Pair = tuple[Order, Order]
"""The orders of Q and of K."""

ENOUGH = 50.0
"""The score of orders that are there. SmolLM2 of 135 million weights, in 4 bits, reaches 7,740, the trained models that
set this at least 65; of 2,400 made-up models whose rows are noise, the most is 40.3."""

AHEAD = 8.0
"""By how much it must exceed the next. Of the small models trained for this threshold, other orders
than the true ones were ahead by 2 at most; SmolLM2's are by 2,531."""

RARE = 4.0
"""What K permuted with Q's heads must gain more where Q was not permuted: one call permutes both. Half of AHEAD, so
that even there the evidence and not this decides. So much, too, must other numbers of heads gain before they are named
beside an order: rows in halves and rows permuted with twice the heads differ in the norms of rows alone."""

AGAINST = 6.0
"""By how much one of the two kinds of evidence may prefer other orders than the ones that win overall."""


class Orders(NamedTuple):
    """The orders of Q and of K that explain the weights best, by how much, and what speaks against them most."""

    q: Order
    k: Order
    score: float
    ahead: float
    against: float = 0.0

    @property
    def decided(self) -> bool:
        """Whether that is sure enough to be given as an answer."""
        return self.score >= ENOUGH and self.ahead >= AHEAD and self.against <= max(AGAINST, self.ahead / 10)


def weigh_orders(stack: Sequence[Attention], samples: Samples | None = None) -> Orders | None:
    """Weigh the orders of the rows of Q and K in layers that are alike; None where that cannot be asked.

    Three things tell. The rows that turn together have similarities in Q and K that follow laws of their own. The rows
    of a head are the larger or smaller the faster they turn: put in order, their norms change smoothly. And what norms
    of K deviate from that, those of the same rows of Q deviate as well. The second tells the order of each, the others
    that of Q relative to K.

    Args:
        samples: of the layers, where they were taken before.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    samples = samples or sampled(stack)
    if samples is None:
        return None
    q, k = stack[0].part("q"), stack[0].part("k")
    assert q is not None
    assert k is not None
    layers, forward = samples
    width, share = samples.width, len(q.heads) // len(k.heads)
    places: dict[Order, Array] = {order: places_of(order, width, share) for order in _orders(q, k)}
    pairs: list[_Pair] = [pair for pair in product(places, places) if pair[0] != "with the heads of Q"]
    circuit: dict[_Pair, float] = {
        (one, other): circuit_score(forward, places[one], places[other]) for one, other in pairs
    }
    of_q = {order: sum(smoothness(one.q_norms, place) for one in layers) for order, place in places.items()}
    of_k = {order: sum(smoothness(one.k_norms, place) for one in layers) for order, place in places.items()}
    left_q = {order: left_over([one.group_norms for one in layers], place) for order, place in places.items()}
    left_k = {order: left_over([one.k_norms for one in layers], place) for order, place in places.items()}
    norms: dict[_Pair, float] = {
        (one, other): of_q[one] + of_k[other] + tied(left_q[one], left_k[other]) for one, other in pairs
    }
    return _best(circuit, norms)


def _best(circuit: Mapping[_Pair, float], norms: Mapping[_Pair, float]) -> Orders:
    scores: dict[_Pair, float] = {
        (q, k): circuit[q, k] + norms[q, k] - (RARE if k == "with the heads of Q" and q != "neighbours" else 0)
        for q, k in circuit
    }
    ranked: list[_Pair] = sorted(scores, key=scores.__getitem__, reverse=True)
    best, *others = ranked
    ahead = scores[best] - max((scores[pair] for pair in others), default=0.0)
    against = max(max(one.values()) - one[best] for one in (circuit, norms))
    return Orders(best[0], best[1], scores[best], ahead, against)


def _orders(q: Part, k: Part) -> list[Order]:
    """Those that differ: of heads of four rows some are the same, and where K has Q's heads there are no others."""
    width, share = len(q.heads[0]), len(q.heads) // len(k.heads)
    every: tuple[Order, ...] = ("halves", "neighbours", "twice", "undone", "with the heads of Q")
    found: dict[bytes, Order] = {}
    for order in every:
        if order != "with the heads of Q" or divides_as_q(width, share):
            found.setdefault(places_of(order, width, share).tobytes(), order)
    return list(found.values())


def divides_as_q(width: int, share: int) -> bool:
    """Whether the rows of a head of K can be taken for ``share`` heads of Q, each in two halves."""
    return share > 1 and width % share == 0 and width // share % 2 == 0


def places_of(order: Order, width: int, share: int) -> Array:
    """Where each row of a head, counted as in halves, lies: int [width].

    Args:
        share: heads of Q for each of K.
    """
    rows = np.arange(width)
    once = _turns(width)
    if order == "neighbours":
        return once
    if order == "twice":
        return once[once]
    if order == "undone":
        return np.argsort(once)
    if order == "with the heads of Q":
        short = width // share
        return rows // short * short + _turns(short)[rows % short]
    return rows


def _turns(width: int) -> Array:
    rows = np.arange(width)
    return rows % (width // 2) * 2 + rows // (width // 2)


def in_words(order: Order, heads: Mapping[str, int], part: str) -> str:
    """What has been done to a part whose rows lie so."""
    own = {
        "halves": "has its rows in halves",
        "neighbours": "has the rows of both halves in turn",
        "twice": "has its rows as if they had been put in turns twice",
        "undone": "has its rows as if turns had been undone where there were none",
    }
    wrong = f"was put in turns as if it had {heads['q']} heads, as Q has, and not {heads['k']}"
    return f"{part.upper()} {own.get(order, wrong)}"
