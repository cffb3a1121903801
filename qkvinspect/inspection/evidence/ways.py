"""Every way to cut layers into heads, and how well each explains their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qkvinspect.inspection.evidence.fit import Fit, fit
from qkvinspect.inspection.evidence.index import index_of, tiled
from qkvinspect.inspection.evidence.sample import Sample
from qkvinspect.inspection.report import Attention

Variants = Mapping[int, Attention]
"""For each number of heads, a layer cut into that many; it stands for all layers of its stack, of one shape."""


class HeadsInOrder(NamedTuple):
    """A way to cut layers into heads.

    Attributes:
        tiled: whether the heads that share a kv head lie as many apart as there are kv heads, and not side by side.
    """

    number: int
    tiled: bool = False


Fits = Mapping[HeadsInOrder, Sequence[Fit]]
"""For each way to cut them, how well it explains every layer, some at once, or all of them by one law."""


def every_way(variants: Variants, samples: Sequence[Sample]) -> Fits:
    """Every number of heads that fits, with the heads that share a kv head side by side, and tiled."""
    return {
        HeadsInOrder(number, is_tiled): fitted
        for is_tiled in (False, True)
        for number, cut in variants.items()
        if (fitted := _fits(cut, samples, is_tiled=is_tiled))
    }


def _fits(cut: Attention, samples: Sequence[Sample], *, is_tiled: bool) -> list[Fit]:
    """The hypothesis applied to every sampled layer; empty where it does not fit one."""
    index = index_of(cut, samples[0].stride) if samples else None
    index = tiled(index) if index is not None and is_tiled else index
    placed = samples[0].placed(index) if index is not None else None
    if not placed:
        return []
    fitted: list[Fit] = []
    for sample in samples:
        one = fit(sample, placed)
        if not one.usable:
            return []
        fitted.append(one)
    return fitted


def weighable(variants: Variants, stride: int) -> set[int]:
    """The numbers of heads that keep their form when one row in ``stride`` is taken."""
    return {number for number, cut in variants.items() if index_of(cut, stride) is not None}
