"""What became of each layer and head of A in B."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

import numpy as np

from qkvinspect.inspection.json_values import number_or_none
from qkvinspect.lineage.compared_layers import LayerPairs, PairedLayer
from qkvinspect.lineage.movement import Inner, inner_products
from qkvinspect.lineage.sampled_heads import SampledHeads

Fate = Literal["kept", "half kept", "unclear", "replaced", "zeroed", "filled", "removed", "added", "merged", "copied",
    "elsewhere"]  # fmt: skip
FATES: tuple[Fate, ...] = get_args(Fate)


@dataclass(frozen=True, slots=True)
class HeadFate:
    """What became of a head.

    Attributes:
        a: its number in A; None for one that only B has.
        b: its number in B; None for one that only A has.
        like: of a merged head the one of B that it went into, of a copied one that of A that it is a copy of, of one
            that is elsewhere its number in the other layer.
        like_layer: the name of that layer; None: the same.
        cosine: of the circuits, the mean of both, at all units that were read.
        moved_qk, moved_ov: the distance of B's circuit from A's, in sizes of A's.
    """

    fate: Fate
    a: int | None
    b: int | None
    like: int | None = None
    cosine: float | None = None
    moved_qk: float | None = None
    moved_ov: float | None = None
    like_layer: str | None = None

    @property
    def moved(self) -> float | None:
        """The greater of both distances."""
        known = [one for one in (self.moved_qk, self.moved_ov) if one is not None]
        return max(known, default=None)

    def to_dict(self) -> dict[str, object]:
        """Its form in the JSON contract."""
        return {
            "fate": self.fate,
            "a": self.a,
            "b": self.b,
            "like": self.like,
            "like_layer": self.like_layer,
            **{name: number_or_none(getattr(self, name)) for name in ("cosine", "moved_qk", "moved_ov")},
        }


@dataclass(frozen=True, slots=True)
class LayerFate:
    """What became of a layer.

    Attributes:
        a, b: its names; None where a side has no such layer.
        like: of a copied layer the name of that of A that it is like, of a merged one that of B.
        heads: in the order of A's, then those that only B has.
        distance: the mean squared distance of its circuits, each in the size of both; None without pairs.
    """

    fate: Fate
    a: str | None
    b: str | None
    like: str | None = None
    heads: tuple[HeadFate, ...] = ()
    kv_heads: tuple[int, int] | None = None
    distance: float | None = None

    @property
    def moved(self) -> float | None:
        """The median over its heads."""
        known = [head.moved for head in self.heads if head.moved is not None]
        return median(known) if known else None

    def to_dict(self) -> dict[str, object]:
        """Its form in the JSON contract."""
        return {
            "fate": self.fate,
            "a": self.a,
            "b": self.b,
            "like": self.like,
            "kv_heads": list(self.kv_heads) if self.kv_heads else None,
            "moved": number_or_none(self.moved),
            "heads": [head.to_dict() for head in self.heads],
        }


def of_pair(
    pair: PairedLayer, pairs: LayerPairs, names: tuple[str, str], a: SampledHeads, b: SampledHeads
) -> LayerFate:
    """Of a layer of A and the one of B that it was paired with."""
    heads: list[HeadFate] = []
    products: list[Inner] = []
    met: list[tuple[int, int]] = []
    for i, j in pair.heads:
        fate = _of_two(pair, pairs, i, j)
        if fate is None:
            continue
        met.append((i, j))
        qk, ov = inner_products(a, b, i, j)
        if fate == "kept":
            products += qk, ov
        heads.append(HeadFate(fate, i, j, None, (qk.cosine + ov.cosine) / 2, qk.moved, ov.moved))
    heads += _alone(pair, pairs, met)
    distance = float(np.mean([one.apart for one in products])) if products else None
    kv_heads = (a.kv_heads, b.kv_heads) if a.kv_heads != b.kv_heads else None
    return LayerFate("kept", *names, heads=in_place(heads), kv_heads=kv_heads, distance=distance)


def in_place(heads: Sequence[HeadFate]) -> tuple[HeadFate, ...]:
    """In the order of A's, then those that only B has."""
    return tuple(sorted(heads, key=lambda head: (head.a is None, head.b if head.a is None else head.a)))


def _of_two(pair: PairedLayer, pairs: LayerPairs, i: int, j: int) -> Fate | None:
    """What became of a head of A whose partner this is; None: it is none."""
    ours, theirs = pair.empty[0][:, i], pair.empty[1][:, j]
    circuits, alike = pair.circuits[:, i, j], float(pair.alike[i, j])
    if (ours == theirs).all() and ours.all():
        return "kept"
    if (ours != theirs).any():  # a circuit of one is zeros
        both = ~(ours | theirs)
        if both.any() and not (circuits[both] > pairs.known_circuit).all():
            return None
        return "zeroed" if theirs.any() and not ours.any() else "filled" if ours.any() and not theirs.any() else None
    known = circuits[~ours] > pairs.known_circuit
    # the other circuit may look like the opposite, and make the mean as small as that of strangers
    if known.any() and not known.all() and (circuits[~ours] > pairs.sure_circuit).any():
        return "half kept"
    if alike <= pairs.least("stranger"):
        return None
    if alike > pairs.least("kept"):
        return "kept" if known.all() else "half kept"
    return "unclear"


def _alone(pair: PairedLayer, pairs: LayerPairs, met: Sequence[tuple[int, int]]) -> Iterator[HeadFate]:
    """Heads that only one side has: what they are like, if anything."""
    alike = pair.alike
    ours, theirs = ({head[side] for head in met} for side in (0, 1))
    for i in set(range(len(alike))) - ours:
        like = int(alike[i].argmax())
        merged = alike[i, like] > pairs.least("merged") and like in theirs
        yield HeadFate("merged" if merged else "removed", i, None, like if merged else None)
    for j in set(range(alike.shape[1])) - theirs:
        like = int(alike[:, j].argmax())
        copied = alike[like, j] > pairs.least("copied")
        yield HeadFate("copied" if copied else "added", None, j, like if copied else None)


def without_partner(pairs: LayerPairs, a: Sequence[str], b: Sequence[str]) -> Iterator[LayerFate]:
    """Layers that only one side has; one may be like one of the other side that was paired with another."""
    ours, theirs = ({getattr(pair, side) for pair in pairs.paired} for side in ("a", "b"))
    for place, name in enumerate(a):
        if place not in ours:
            like = int(pairs.alike[place].argmax())
            merged = pairs.alike[place, like] > pairs.least("copied")
            yield LayerFate("merged" if merged else "removed", name, None, b[like] if merged else None)
    for place, name in enumerate(b):
        if place not in theirs:
            like = int(pairs.alike[:, place].argmax())
            copied = pairs.alike[like, place] > pairs.least("copied")
            yield LayerFate("copied" if copied else "added", None, name, a[like] if copied else None)
