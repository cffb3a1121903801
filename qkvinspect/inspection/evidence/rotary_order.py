"""Infer the order of the rows in each head of Q and K from which of them a rotary embedding turns together.

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
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.weights.values import rows_of_values

Array = NDArray[Any]

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
that even there the evidence and not this decides."""

AGAINST = 6.0
"""By how much one of the two kinds of evidence may prefer other orders than the ones that win overall."""

_MOST_COLUMNS = 2048
_MOST_LAYERS = 6
_MOST_GROUPS = 4
_MOST_QUERIES = 4
_LEAST_WIDTH = 8
_FLAT = 1e-12


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


def weigh_orders(stack: Sequence[Attention]) -> Orders | None:
    """Weigh the orders of the rows of Q and K in layers that are alike; None where that cannot be asked.

    Three things tell. The rows that turn together have similarities in Q and K that follow laws of their own. The rows
    of a head are the larger or smaller the faster they turn: put in order, their norms change smoothly. And what norms
    of K deviate from that, those of the same rows of Q deviate as well. The second tells the order of each, the others
    that of Q relative to K.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    count = min(len(stack), _MOST_LAYERS)
    samples = [_sample(stack[i * len(stack) // count]) for i in range(count)]
    samples = [sample for sample in samples if sample.blocks]
    if not samples:
        return None
    q, k = stack[0].part("q"), stack[0].part("k")
    assert q is not None
    assert k is not None
    forward = np.stack([block for sample in samples for block in sample.blocks])
    width, share = forward.shape[1], len(q.heads) // len(k.heads)
    places: dict[Order, Array] = {order: places_of(order, width, share) for order in _orders(q, k)}
    pairs: list[_Pair] = [pair for pair in product(places, places) if pair[0] != "with the heads of Q"]
    circuit: dict[_Pair, float] = {(one, other): _score(forward, places[one], places[other]) for one, other in pairs}
    of_q = {order: sum(smoothness(one.q_norms, place) for one in samples) for order, place in places.items()}
    of_k = {order: sum(smoothness(one.k_norms, place) for one in samples) for order, place in places.items()}
    left_q = {order: _left([one.group_norms for one in samples], place) for order, place in places.items()}
    left_k = {order: _left([one.k_norms for one in samples], place) for order, place in places.items()}
    norms: dict[_Pair, float] = {
        (one, other): of_q[one] + of_k[other] + _tied(left_q[one], left_k[other]) for one, other in pairs
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


def smoothness(norms: Array, places: Array) -> float:
    """What is gained if the norms of a head's rows are a parabola over how fast they turn, less what chance gives.

    Twice the gain in log-likelihood; it is the same parabola for all heads of a layer.

    Args:
        norms: logarithms of the norms of rows as they are stored: [heads, rows of a head].
        places: where each row lies, counted as in halves.
    """
    heads, width = norms.shape
    centred, basis = _centred(norms, places)
    whole = float((centred**2).sum())
    explained = heads * float(((basis.T @ centred.mean(axis=0)) ** 2).sum())
    if whole <= _FLAT * centred.size:
        return 0.0
    return float(-heads * (width - 1) * np.log(max(1 - explained / whole, 1e-9))) - basis.shape[1]


def _left(norms: Sequence[Array], places: Array) -> Array:
    """What smoothness leaves of the norms of each two rows that turn together, of all layers: [pairs of rows]."""
    left: list[Array] = []
    for layer in norms:
        centred, basis = _centred(layer, places)
        rest = centred - basis @ (basis.T @ centred.mean(axis=0))
        left.append(rest.reshape(len(rest), 2, -1).sum(axis=1).ravel())
    return np.concatenate(left)


def _tied(q: Array, k: Array) -> float:
    """What is gained if these deviate together in Q and K, less what chance gives; twice that in log-likelihood.

    To make two rows of Q larger and those that they are multiplied with smaller by the same factor changes nothing, and
    training does not move along what changes nothing: norms that began alike stay balanced.
    """
    sizes = float(q @ q), float(k @ k)
    if min(sizes) <= _FLAT * q.size:
        return 0.0
    explained = float(q @ k) ** 2 / (sizes[0] * sizes[1])
    return float(-q.size * np.log(max(1 - explained, 1e-9))) - 1


def _centred(norms: Array, places: Array) -> tuple[Array, Array]:
    """Norms in the order of halves, less the mean of each head; and what spans a parabola over how fast they turn."""
    ordered = norms[:, places]
    width = ordered.shape[1]
    turns: Array = np.arange(width, dtype=np.float64) % (width // 2)
    basis = np.linalg.qr(np.vander(turns, 3, increasing=True))[0][:, 1:]
    return ordered - ordered.mean(axis=1, keepdims=True), basis


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


def _score(forward: Array, q: Array, k: Array) -> float:
    """What is gained if the rows of Q are alike to the same rows of K, to the rows that turn with these,
    and to all others by three laws instead of one; once the rows are back in their places. Less what chance gives.

    Twice the gain in log-likelihood of normal distributions around zero: of which sign a similarity is differs from
    head to head.
    """
    squares = forward[:, q][:, :, k].astype(np.float64) ** 2
    width = len(q)
    same = np.eye(width, dtype=bool)
    partners = np.roll(same, width // 2, axis=1)
    laws = [squares[:, mask] for mask in (same, partners, ~(same | partners))]
    whole = max(float(squares.mean()), _FLAT)
    gained = -sum(law.size * float(np.log(max(float(law.mean()), _FLAT) / whole)) for law in laws)
    return gained - (len(laws) - 1)


class _HeadSample(NamedTuple):
    """Of some heads of a layer: how alike the rows of Q are with those of K, [rows of Q, rows of K] each; and the
    logarithms of the norms of their rows, [heads, rows of a head]; those of Q also over all heads of a head of K.
    """

    blocks: list[Array]
    q_norms: Array
    group_norms: Array
    k_norms: Array


def _sample(attention: Attention) -> _HeadSample:
    nothing = _HeadSample([], *3 * (np.empty((0, 0)),))
    q, k = attention.part("q"), attention.part("k")
    if q is None or k is None or attention.heads is None or len(q.heads) % len(k.heads):
        return nothing
    width, share = len(k.heads[0]), len(q.heads) // len(k.heads)
    if len(q.heads[0]) != width or width < _LEAST_WIDTH or width % 2 or q.shape[1] != k.shape[1]:
        return nothing
    blocks: list[Array] = []
    norms: list[Array] = []
    groups = min(len(k.heads), _MOST_GROUPS)
    for group in (i * len(k.heads) // groups for i in range(groups)):
        queries = [q.heads[group * share + i] for i in range(min(share, _MOST_QUERIES))]
        rows = np.concatenate([_rows(q, queries), _rows(k, [k.heads[group]])])
        scores = normal_scores(rows)
        if scores is None:
            continue
        keys = slice(len(queries) * width, None)
        blocks += [scores[i * width : (i + 1) * width, keys] for i in range(len(queries))]
        norms.append(_log_norms(rows).reshape(-1, width))
    if not blocks:
        return nothing
    lengths = np.array(norms)
    over_group = np.log((np.exp(lengths[:, :-1]) ** 2).mean(axis=1)) / 2
    return _HeadSample(blocks, lengths[:, :-1].reshape(-1, width), over_group, lengths[:, -1])


def _log_norms(rows: Array) -> Array:
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    return np.log(np.maximum(lengths, lengths.max(initial=0) * 1e-3 + 1e-30))


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
