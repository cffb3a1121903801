"""Which layers, each weighed alone, are as sure of an answer as their stack: all of them at once.

A layer that is not among them is weighed alone by the same rules as a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qkvinspect.inspection.evidence.fit import Fit
from qkvinspect.inspection.evidence.groups import standing
from qkvinspect.inspection.evidence.odds import CHANCE, TEMPERATURE, noise_of
from qkvinspect.inspection.evidence.ways import Fits, HeadsInOrder
from qkvinspect.inspection.verdict import Weighed
from qkvinspect.weights.reading import Array


def with_heads(fits: Fits, said: Weighed, sure: float, chance: float = CHANCE) -> Array:
    """Which layers have the heads of their stack for certain: bool [layers].

    Args:
        chance: with which noise may seem to have them.
    """
    best = HeadsInOrder(said.num_heads, said.tiled)
    scores = {heads: _of_layers(of, lambda one: one.gain().score) for heads, of in fits.items()}
    own = scores[best]
    others = [np.zeros(len(own)), *(score for heads, score in scores.items() if heads != best)]
    found = (own > _noise(fits, chance)) & (_shares(own, others) > sure)
    if best.tiled or not found.any():
        return found
    near = {heads.number: of for heads, of in fits.items() if not heads.tiled}
    return found & standing(best.number, {heads: scores[HeadsInOrder(heads)] for heads in near}, near)


def as_packed(fits: Mapping[str, Fits], said: Weighed, sure: float = 0.0) -> Array:
    """Which layers have the packing of their stack for certain, or at least rather than any other: bool [layers]."""
    tops: dict[str, Array] = {}
    which: dict[str, Array] = {}
    for label, own in fits.items():
        scores = np.stack([_of_layers(of, lambda one: one.fitted.score) for of in own.values()])
        which[label], tops[label] = scores.argmax(axis=0), scores.max(axis=0)
    own, top = fits[said.label], tops[said.label]
    if not sure:
        return top >= np.max([*tops.values()], axis=0)
    gains = np.stack([_of_layers(of, lambda one: one.gain().score) for of in own.values()])
    visible = gains[which[said.label], np.arange(len(top))] > _noise(own, CHANCE)
    same = 1e-6  # the same rows under another name
    others = [np.where(np.abs(one - top) < same, -np.inf, one) for label, one in tops.items() if label != said.label]
    return visible & (_shares(top, others) > sure)


def _of_layers(fits: Sequence[Fit], what: Callable[[Fit], float | Array]) -> Array:
    return np.concatenate([np.broadcast_to(what(one), one.layers) for one in fits])


def _noise(fits: Fits, chance: float) -> Array:
    """What no score of noise exceeds, of each layer."""
    variance = np.max([_of_layers(of, lambda one: one.gain().variance) for of in fits.values()], axis=0)
    found = {one: noise_of(one, len(fits), chance) for one in set(variance.tolist())}
    return np.array([found[one] for one in variance.tolist()])


def _shares(top: Array, others: Sequence[Array]) -> Array:
    """As ``share_of``, of each layer."""
    return 1 / sum((np.exp(np.minimum((one - top) / 2 / TEMPERATURE, 50.0)) for one in others), np.ones(len(top)))
