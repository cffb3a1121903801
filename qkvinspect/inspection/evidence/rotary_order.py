"""In which order the rows of each head of Q and K lie, told by which of them a rotary embedding turns together.

Of a head whose rows are in halves, as transformers has them, row i and row i + d/2 turn together. Converters put
them in turns: 0, d/2, 1, d/2 + 1 and so on. They do so to Q and to K, and each may have been forgotten, done twice,
undone where nothing was to undo, or done to K as if it had as many heads as Q.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qkvinspect.inspection.evidence.gram import normal_scores
from qkvinspect.inspection.evidence.rotary import gain
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.weights.values import rows_of_values

Array = NDArray[Any]

Order = Literal["halves", "neighbours", "twice", "undone", "with the heads of Q"]
"""How the rows of a head lie: as transformers has them, permuted, permuted twice, the reverse done to halves, or
permuted as so many heads as Q has."""

ENOUGH = 100.0
"""The score of orders that are there. SmolLM2 of 135 million weights, in 4 bits, reaches 1,567."""

AHEAD = 60.0
"""By how much it must exceed the next. Of ten tiny models after 450 steps of training, whose weights hardly tell, a
wrong one was ahead by 22; SmolLM2's is by 1,465."""

_MOST_COLUMNS = 2048
_MOST_LAYERS = 6
_MOST_GROUPS = 4
_MOST_QUERIES = 4
_LEAST_WIDTH = 8


class Orders(NamedTuple):
    """The orders of Q and of K that explain the weights best, and by how much."""

    q: Order
    k: Order
    score: float
    ahead: float

    @property
    def decided(self) -> bool:
        """Whether that is sure enough to be given as an answer."""
        return self.score >= ENOUGH and self.ahead >= AHEAD


def weigh_orders(stack: Sequence[Attention]) -> Orders | None:
    """Weigh the orders of the rows of Q and K in layers that are alike; None where that cannot be asked.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    count = min(len(stack), _MOST_LAYERS)
    chosen = [stack[i * len(stack) // count] for i in range(count)]
    blocks = [block for attention in chosen for block in _blocks(attention)]
    if not blocks:
        return None
    forward = np.stack(blocks)
    width, q, k = forward.shape[1], stack[0].part("q"), stack[0].part("k")
    assert q is not None
    assert k is not None
    places: dict[Order, Array] = {}
    for order in _orders(q, k):
        places[order] = places_of(order, width, len(q.heads) // len(k.heads))
    scores: dict[tuple[Order, Order], float] = {}
    for one, other in product(places, places):
        if one != "with the heads of Q":
            scores[one, other] = _score(forward, places[one], places[other])
    best, *others = sorted(scores, key=scores.__getitem__, reverse=True)
    ahead = scores[best] - max((scores[pair] for pair in others), default=0.0)
    return Orders(best[0], best[1], scores[best], ahead)


def _orders(q: Part, k: Part) -> list[Order]:
    """Those that differ: of heads of four rows some are the same, and where K has Q's heads there are no others."""
    width, share = len(q.heads[0]), len(q.heads) // len(k.heads)
    every: tuple[Order, ...] = ("halves", "neighbours", "twice", "undone", "with the heads of Q")
    found: dict[bytes, Order] = {}
    for order in every:
        if order != "with the heads of Q" or (share > 1 and width % share == 0 and width // share % 2 == 0):
            found.setdefault(places_of(order, width, share).tobytes(), order)
    return list(found.values())


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


def _score(forward: Array, q: Array, k: Array) -> float:
    """What is gained if row i and row i + d/2 turn together, once the rows are back in their places."""
    ordered = forward[:, q][:, :, k]
    width = len(q)
    chosen = np.zeros((width, width), bool)
    chosen[np.arange(width // 2), np.arange(width // 2) + width // 2] = True
    rest = np.triu(np.ones((width, width), bool), 1) & ~chosen
    return gain(ordered, ordered.transpose(0, 2, 1), chosen, rest)


def _blocks(attention: Attention) -> list[Array]:
    """How alike the rows of some heads of Q are with those of their K: [rows of Q, rows of K] each."""
    q, k = attention.part("q"), attention.part("k")
    if q is None or k is None or attention.heads is None or len(q.heads) % len(k.heads):
        return []
    width, share = len(k.heads[0]), len(q.heads) // len(k.heads)
    if len(q.heads[0]) != width or width < _LEAST_WIDTH or width % 2:
        return []
    found: list[Array] = []
    groups = min(len(k.heads), _MOST_GROUPS)
    for group in (i * len(k.heads) // groups for i in range(groups)):
        queries = [q.heads[group * share + i] for i in range(min(share, _MOST_QUERIES))]
        rows = np.concatenate([_rows(q, queries), _rows(k, [k.heads[group]])])
        scores = normal_scores(rows)
        if scores is not None:
            keys = slice(len(queries) * width, None)
            found += [scores[i * width : (i + 1) * width, keys] for i in range(len(queries))]
    return found


def _rows(part: Part, runs: Sequence[range]) -> Array:
    values = rows_of_values(part.weight.as_matrix(part.orientation), runs)
    return np.asarray(values[:, :_MOST_COLUMNS], np.float32)


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
