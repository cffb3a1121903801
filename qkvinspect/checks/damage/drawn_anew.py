"""A part of a layer that holds numbers drawn once, where its like in the other layers of its stack was trained.

It was initialised and never loaded, or written over with noise of the same size. Numbers drawn from one distribution,
whichever it is, leave all heads with the same norm and the same stable rank, but for chance of a known size; training
does not. In trained checkpoints by others all parts are further from that in one of the two than chance goes, but for
a self-attention that only ever saw one position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt

from qkvinspect.checks.head_values import HeadValues
from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Part

_HEADS = 4
"""The fewest heads that are compared."""

_OTHERS = 3
"""The fewest trained layers beside it."""

_DRAWN, _TRAINED = 2.0, 3.0
"""Up to and from how many times what chance does."""

_MEAN, _DEVIATION = -1.2065, 1.268
"""Of the Tracy-Widom distribution, which the largest eigenvalue of a Gram matrix of random numbers follows (Johnstone,
On the distribution of the largest eigenvalue in principal components analysis, 2001)."""


@dataclass(frozen=True, slots=True)
class _Spread:
    """How far the heads of a part differ, each in times of what chance does.

    Attributes:
        ranks: their stable ranks, from that of random numbers.
        norms: their squared norms, from their mean.
    """

    ranks: float
    norms: float

    @property
    def drawn(self) -> bool:
        return max(self.ranks, self.norms) < _DRAWN

    @property
    def trained(self) -> bool:
        return max(self.ranks, self.norms) > _TRAINED


def drawn_anew(subject: Subject) -> Iterator[Fault]:
    """The parts, one by one, of layers whose other parts are trained: a layer that is new as a whole may be meant."""
    spreads: dict[str, dict[str, _Spread]] = {}
    for attention, part, values in subject.parts():
        if attention.heads is not None and (spread := _spread(part, values)):
            spreads.setdefault(attention.layer, {})[part.name] = spread
    for stack in subject.stacks.values():
        layers = [spreads.get(attention.layer, {}) for attention in stack]
        for attention, own in zip(stack, layers, strict=True):
            for name, spread in own.items():
                others = [one[name] for one in layers if one is not own and name in one]
                trained = sum(one.trained for one in others)
                alone = any(other.trained for other in own.values())
                if spread.drawn and alone and trained >= _OTHERS and 4 * trained >= 3 * len(others):
                    text = f"{name.upper()} holds numbers that were drawn once, where that of {trained} other layers"
                    yield attention.layer, f"{text} of its stack is trained: never loaded, or written over"


def _spread(part: Part, values: Sequence[HeadValues]) -> _Spread | None:
    """How far its heads differ; None where there are few, or they are not alike in form or not finite."""
    rows, cols = len(part.heads[0]) if part.heads else 0, part.in_features
    squares = [one.norm**2 for one in part.head_measures]
    ranks = [one.stable_rank for one in values if one.stable_rank]
    if not _HEADS <= len(values) == len(ranks) == len(squares) or any(len(head) != rows for head in part.heads):
        return None
    mean = sum(squares) / len(squares)
    if min(rows, cols) < _HEADS or not 0 < mean < float("inf"):
        return None
    edge = sqrt(rows) + sqrt(cols)
    width = edge * (1 / sqrt(rows) + 1 / sqrt(cols)) ** (1 / 3)
    largest = edge**2 + _MEAN * width
    apart = [(rows * cols / rank - largest) / (_DEVIATION * width) for rank in ranks]
    deviation = sqrt(sum((one / mean - 1) ** 2 for one in squares) / (len(squares) - 1))
    return _Spread(sqrt(sum(one**2 for one in apart) / len(apart)), deviation / sqrt(2 / (rows * cols)))
