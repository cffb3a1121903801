"""Every way to cut layers into heads, and how well each explains their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.evidence.fit import Fit, fit, know, over_one_base
from qkvinspect.inspection.evidence.index import index_of, tiled
from qkvinspect.inspection.evidence.sample import Sample
from qkvinspect.inspection.report import Attention
from qkvinspect.weights.reading import Array

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
    """Every number of heads that fits all layers, with the heads that share a kv head side by side, and tiled."""
    return comparable(every_packing({"": variants}, samples).get("", {}), variants)


def rows_move(variants: Variants) -> bool:
    """Whether each number of heads puts the parts into other rows."""
    return len({tuple(part.rows for part in cut.parts) for cut in variants.values()}) > 1


def comparable(fits: Fits, variants: Variants) -> Fits:
    """The same, with gains that compare also where each number of heads puts the parts into other rows."""
    if rows_move(variants):
        for same_layers in zip(*fits.values(), strict=True):
            over_one_base(same_layers)
    return fits


def every_packing(packings: Mapping[str, Variants], samples: Sequence[Sample]) -> Mapping[str, Fits]:
    """The same of each of several packings, of those that have any."""
    ways = {
        (label, HeadsInOrder(number, is_tiled)): index
        for label, variants in packings.items()
        for is_tiled in (False, True)
        for number, cut in variants.items()
        if samples and (index := _placed(cut, samples[0], is_tiled=is_tiled))
    }
    found: dict[tuple[str, HeadsInOrder], list[Fit]] = {way: [] for way in ways}
    for sample in samples:
        fits = {way: fit(sample, ways[way]) for way in found}
        know([*fits.values()])
        for way, one in fits.items():
            if one.usable:
                found[way].append(one)
            else:
                del found[way]
        sample.forget()
    by_label: dict[str, dict[HeadsInOrder, list[Fit]]] = {}
    for (label, heads), fitted in found.items():
        by_label.setdefault(label, {})[heads] = fitted
    return by_label


def _placed(cut: Attention, sample: Sample, *, is_tiled: bool) -> Mapping[str, Array] | None:
    """Which rows of a sample are in which head of which part; None where they do not show these."""
    index = index_of(cut, sample.stride)
    index = tiled(index) if index is not None and is_tiled else index
    return index and sample.placed(index)


def weighable(variants: Variants, stride: int) -> set[int]:
    """The numbers of heads that keep their form when one row in ``stride`` is taken."""
    return {number for number, cut in variants.items() if index_of(cut, stride) is not None}
