"""What else may explain the rows of Q and K than an order of whole heads: see rotary_order.

The rows may have been permuted as if there were more heads or fewer of them, so that a head holds rows of several or
its own in smaller turns; or only some rows of each head turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.evidence.rotary_order import AHEAD, ENOUGH, places_of
from qkvinspect.inspection.evidence.rotary_sample import (
    Array,
    Samples,
    circuit_score,
    left_over,
    sampled,
    smoothness,
    tied,
)
from qkvinspect.inspection.report import Attention

_PARTS = ((1, 2), (1, 4), (3, 4))
"""The shares of a head's rows that libraries turn where they do not turn all: of GLM, GPT-NeoX and Nemotron."""


FAR_AHEAD = 2 * AHEAD
"""By how much one of these must exceed what it is compared with: they are many, and of right rows those of Q with K's
number of heads come within 5, for a head of K takes no notice of which of its heads of Q a row is from."""


class Rival(NamedTuple):
    """The score of such an explanation, as those of ``Orders``.

    Attributes:
        calls: the numbers of heads of Q and of K that the permutation took there to be; None where it is none.
        turned: how many rows of a head turn; 0: all.
    """

    score: float
    calls: tuple[int, int] | None = None
    turned: int = 0

    def beats(self, score: float) -> bool:
        """Whether it is a better answer than what has a score."""
        return self.score >= max(ENOUGH, score + FAR_AHEAD)

    def rivals(self, score: float) -> bool:
        """Whether it explains the weights about as well as that, so that neither is the answer."""
        return self.score >= ENOUGH and self.score > score - FAR_AHEAD


def calls_of(stack: Sequence[Attention], samples: Samples) -> Iterator[Rival]:
    """Rows permuted with other numbers of heads: of both half as many or twice, all as one, Q with those of K.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    q, k = (stack[0].part(part) for part in "qk")
    assert q is not None
    assert k is not None
    heads, kv_heads, width = len(q.heads), len(k.heads), samples.width
    tried = [(2 * heads, 2 * kv_heads)] if width % 4 == 0 else []
    tried += [(heads // 2, kv_heads // 2)] if heads % 2 == kv_heads % 2 == 0 else []
    tried += [(kv_heads, kv_heads), (1, 1)]
    for calls in dict.fromkeys(tried):
        if calls != (heads, kv_heads) and (found := sampled(stack, calls)) is not None:
            yield Rival(_score(found, np.arange(width)), calls)


def best_calls(stack: Sequence[Attention], samples: Samples) -> list[Rival]:
    """The numbers of heads that explain the rows best, and those that do about as well.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    every = sorted(calls_of(stack, samples), reverse=True)
    return [one for one in every if one.rivals(every[0].score)]


def parts_of(samples: Samples) -> Iterator[Rival]:
    """Heads of which some rows turn, in halves or in turns, or put in turns with those that do not."""
    for one, other in _PARTS:
        turned, left = divmod(samples.width * one, other)
        if left or turned % 2 or turned < 4:
            continue
        rest = np.arange(turned, samples.width)
        for places in (
            np.arange(samples.width),
            places_of("neighbours", samples.width, 1),
            np.concatenate((places_of("neighbours", turned, 1), rest)),
        ):
            yield Rival(_score(samples, places, turned), turned=turned)


def _score(samples: Samples, places: Array, turned: int = 0) -> float:
    """As ``weigh_orders`` has it of Q and K that lie alike."""
    layers, forward = samples
    smooth = sum(smoothness(one.q_norms, places, turned) + smoothness(one.k_norms, places, turned) for one in layers)
    of_q = left_over([one.group_norms for one in layers], places, turned)
    of_k = left_over([one.k_norms for one in layers], places, turned)
    return circuit_score(forward, places, places, turned) + smooth + tied(of_q, of_k)
