"""Hypotheses that only merge the heads of another: neighbouring heads that happen to be alike look like one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

from qkvinspect.inspection.evidence.fit import Fit
from qkvinspect.inspection.evidence.likelihood import Fitted
from qkvinspect.weights.reading import Array

Fits = Mapping[int, Sequence[Fit]]
"""For each number of heads, how well it explains every layer, or all of them at once."""

_NEAR = 0.3
"""The share of a score from which a larger number of heads may explain it."""

_SHUFFLES = 60
_AS_GOOD = 0.8
_OFTEN = 0.1

_PARTED = 0.12
"""The share of a score that is gained if each head is parted again, where it is one: under 0.06 in all layers that
others trained and that are not too faint to tell. Where two heads are taken for one it was 0.16 to 3."""

_ROOM = 1 << 20
"""Pairs of heads, in all orders, that are looked at together."""

_CHANCE = 15.0
"""The gain of splitting heads that noise hardly ever reaches."""


def score_of(fitted: Sequence[Fitted]) -> float:
    """Twice the log-likelihood, less what it would be on noise."""
    return float(sum(np.sum(one.score) for one in fitted))


def explained(scores: Mapping[int, float], fits: Fits) -> dict[int, int]:
    """The likeliest hypotheses that are mere groups of the heads of another one.

    Heads differ from each other, so neighbours that happen to be alike make a larger block seem real. If other
    groupings of the same heads explain the weights as well, it is not real.
    """
    gone: dict[int, int] = {}
    live = dict(scores)
    while live:
        best = max(live, key=lambda heads: live[heads])
        finer = sorted(
            heads for heads in live if heads > best and heads % best == 0 and live[heads] > _NEAR * live[best]
        )
        by = next((heads for heads in finer if _any_order_does(fits[heads], heads // best, scores[best])), None)
        if by is None:
            break
        gone[best] = by
        del live[best]
    return gone


def standing(best: int, scores: Mapping[int, Array], fits: Fits) -> Array:
    """In which layers heads are neither groups of a larger number of heads nor fall into such: bool [layers].

    Where other orders of these do sometimes as well, that is not clear, and False.

    Args:
        scores: of every number of heads, [layers].
    """
    found = np.ones(len(scores[best]), bool)
    for heads in (heads for heads in fits if heads > best and heads % best == 0):
        if not all(one.nests for one in fits[heads]):
            continue
        parted = np.concatenate([np.broadcast_to(one.parted(heads // best).score, one.layers) for one in fits[heads]])
        found &= parted <= _PARTED * scores[best] + _CHANCE
        if (found & (scores[heads] > _NEAR * scores[best])).any():
            orders = _orders(fits[heads][0].kv_heads, heads // best)[: _SHUFFLES // 4]
            if not orders:
                continue
            gains = [one.gains(np.array(orders)).reshape(one.layers, -1) for one in fits[heads]]
            reached = np.concatenate(gains).max(axis=1, initial=-np.inf) > _AS_GOOD * scores[best]
            found &= ~(reached & (scores[heads] > _NEAR * scores[best]))
    return found


def _any_order_does(fits: Sequence[Fit], together: int, score: float) -> bool:
    if not all(one.nests for one in fits):
        return False
    orders = _orders(fits[0].kv_heads, together)
    reached = tried = 0
    for some in _in_parts(orders, _SHUFFLES // 4):
        gains = sum(one.gains(np.array(some)).reshape(-1, len(some)).sum(axis=0) for one in fits)
        reached += int(np.count_nonzero(gains > _AS_GOOD * score))
        tried += len(some)
        if tried == _SHUFFLES // 4 and reached in (0, tried):  # it will not become clearer
            break
    return reached > _OFTEN * tried


@lru_cache(maxsize=64)
def _orders(kv_heads: int, together: int) -> list[Array]:
    """Other groups of so many heads."""
    own = np.arange(kv_heads) // together
    drawn = _at_random(_SHUFFLES * kv_heads).reshape(_SHUFFLES, kv_heads).argsort(axis=1)
    return [order for order in own[drawn] if not _same(order, own)]


def _at_random(count: int) -> Array:
    """Numbers of splitmix64 (Steele, Lea, Flood 2014), always the same: numpy.random takes long to import."""
    state = np.arange(1, count + 1, dtype=np.uint64) * 0x9E3779B97F4A7C15
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB
    return state ^ (state >> 31)


def _in_parts(orders: Sequence[Array], size: int) -> Iterator[Sequence[Array]]:
    """So many at a time as are looked at together, and fewer where that would take much room."""
    for first in range(0, len(orders), size):
        some = orders[first : first + size]
        step = max(_ROOM // len(some[0]) ** 2, 1)
        yield from (some[start : start + step] for start in range(0, len(some), step))


def _same(first: Array, second: Array) -> bool:
    """Whether two labellings define the same groups."""
    return len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(set(second.tolist()))


def parts_of(best: int, score: float, fits: Fits) -> int | None:
    """A larger number of heads, if those of a hypothesis fall into parts that are less tied to each other."""
    finer = sorted(heads for heads in fits if heads > best and heads % best == 0)
    for heads in finer:
        if not all(one.nests for one in fits[heads]):
            continue
        if score_of([one.parted(heads // best) for one in fits[heads]]) > _PARTED * score + _CHANCE:
            return heads
    return None
