"""Every way to cut layers into heads, and how well each explains their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qkvinspect.inspection.evidence.fit import Fit, fit
from qkvinspect.inspection.evidence.index import index_of, tiled
from qkvinspect.inspection.evidence.sample import Sample
from qkvinspect.inspection.report import Attention

Variants = Mapping[int, Sequence[Attention]]
"""For each number of heads, the same layers cut into that many."""


class HeadsInOrder(NamedTuple):
    """A way to cut layers into heads.

    Attributes:
        tiled: whether the heads that share a kv head lie as many apart as there are kv heads, and not side by side.
    """

    number: int
    tiled: bool = False


Fits = Mapping[HeadsInOrder, Sequence[Fit]]
"""For each way to cut them, how well it explains every layer, or all of them at once."""


def every_way(variants: Variants, samples: Sequence[Sample]) -> Fits:
    """Every number of heads that fits, with the heads that share a kv head side by side, and tiled."""
    return {
        HeadsInOrder(number, is_tiled): fitted
        for is_tiled in (False, True)
        for number, of in variants.items()
        if (fitted := _fits(of, samples, is_tiled=is_tiled))
    }


def _fits(attentions: Sequence[Attention], samples: Sequence[Sample], *, is_tiled: bool) -> list[Fit]:
    """The hypothesis applied to every sampled layer; empty where it does not fit one."""
    by_layer = {attention.layer: attention for attention in attentions}
    fitted: list[Fit] = []
    for sample in samples:
        index = index_of(by_layer[sample.layer], sample.stride) if sample.layer in by_layer else None
        if index is not None and is_tiled:
            index = tiled(index)
        one = fit(sample, index) if index is not None else None
        if one is None or not one.usable:
            return []
        fitted.append(one)
    return fitted
