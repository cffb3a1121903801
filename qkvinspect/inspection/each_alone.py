"""Weigh each layer of a stack alone, before a claim is made of it: from small samples where these will do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection import alternatives
from qkvinspect.inspection.asking import (
    GLIMPSE,
    NEAR,
    affordable,
    coarsest,
    confirmed,
    expected,
    if_likelier,
    packings_of,
    samples_at_length,
    seen,
    turned_round,
)
from qkvinspect.inspection.hypotheses import Hypotheses
from qkvinspect.inspection.verdict import Evidence, Verdict
from qkvinspect.layouts import Layout

if TYPE_CHECKING:
    from qkvinspect.inspection.evidence import Variants

_GLANCES = ((4, GLIMPSE // 2), (2, GLIMPSE), (0, GLIMPSE), (0, 2 * GLIMPSE))
"""Samples that are taken of a layer until one is sure: of one head of Q and K in how many, or of all there is, and how
many rows. Q and K by themselves show as much of the heads as V with the output projection, of which all must be read
for a few columns."""

_HALF = 0.5
"""The share of the evidence that is expected of Q and K."""

_AT_ONCE = 32
"""Layers of which small samples are weighed at once."""

_HALF_AS_MANY = 2
"""Of large samples: two of the largest at once take longer than one after the other."""


def claim_of(said: Evidence) -> Verdict | None:
    """The verdict that will be reported for every layer of a stack: transposed, its packing, or its heads."""
    claim = said.turned or (said.heads if said.as_declared else said.packings)
    return claim if claim is not None and claim.decided else None


def differing(layout: Layout, said: Evidence, layers: Iterable[Hypotheses]) -> Sequence[str]:
    """The layers that, each weighed alone, contradict the verdict of their stack.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    from qkvinspect.inspection.evidence import APART, CHANCE, LIKELY, unless_apart

    claim = claim_of(said)
    if claim is None:
        return ()
    other = alternatives.turned(layout) if said.turned is not None else None
    every = list(layers)
    for chance in (LIKELY, CHANCE):
        rest = every
        for share, most in _GLANCES:
            rest = _not_sure(other or layout, claim, rest, share, most, chance)
        own = [verdict for one in rest if (verdict := _alone(one, other or layout, claim)) is not None]
        if other is not None and any(verdict.confidence <= APART for verdict in own):
            return [verdict.layers[0] for verdict in own if verdict.confidence <= APART]
        found = [layer for layer, _ in unless_apart(claim, own).apart]
        if not found:
            break
    return found


def glances(layout: Layout, heads: int, layers: Sequence[Hypotheses]) -> Iterator[tuple[str, Evidence]]:
    """What each of some layers, which are cut alike, says by itself of its layout and the heads that are known.

    Small samples will do where they are sure. A layer without values to compare says nothing.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    left: list[Hypotheses] = []
    for some in _at_once(layers, _AT_ONCE):
        of = _together(some)
        said = confirmed(of, layout, of.variants(lambda _: layout, [heads]))
        sure = {one.layers[0]: one for one in said if one is not None}
        yield from sure.items()
        left += [one for one in some if one.matches[0].layer not in sure]
    for some in _at_once(left, affordable(layers[0], _HALF_AS_MANY)):
        yield from _at_length(_together(some), layout, heads)


def _at_length(of: Hypotheses, layout: Layout, heads: int) -> Iterator[tuple[str, Evidence]]:
    """What as large a sample as any says of each layer by itself."""
    from qkvinspect.inspection.evidence import both_of_each, heads_of_each

    own = of.variants(lambda _: layout, [heads])
    samples = samples_at_length(of, lambda _: layout, own)
    if not samples:
        return
    packings = packings_of(of, layout, own, [heads])
    said = dict(zip((sample.layer for sample in samples), both_of_each(packings, samples), strict=True))
    unsure = {layer for layer, (known, _) in said.items() if known is None or not known.decided}
    round_ = turned_round(replace(of, matches=[match for match in of.matches if match.layer in unsure]), layout)
    turned = {one.layers[0]: one for one in heads_of_each(*round_) if one is not None}
    for layer, (known, packed) in said.items():
        as_declared = packed is None or packed.best.label == next(iter(packings))
        yield layer, Evidence(known, packed, if_likelier(turned.get(layer), known), as_declared=as_declared)


def _at_once(layers: Sequence[Hypotheses], most: int) -> Iterator[Sequence[Hypotheses]]:
    return (layers[start : start + most] for start in range(0, len(layers), most))


def _together(layers: Sequence[Hypotheses]) -> Hypotheses:
    return replace(layers[0], matches=[match for one in layers for match in one.matches])


def _not_sure(
    layout: Layout, said: Verdict, layers: Sequence[Hypotheses], share: int, most: int, chance: float
) -> list[Hypotheses]:
    """The layers of which a small sample is not as sure of the verdict of their stack: all where none will be."""
    from qkvinspect.inspection.evidence import Excerpt, agreeing, samples_of, stride_for

    if share and said.best.label:
        return list(layers)  # whose packing is in question
    excerpt = Excerpt("qk", share) if share else None
    weight = _HALF / share if share else 1.0

    found: list[Hypotheses] = []
    for some in _at_once(layers, _AT_ONCE):
        together = _together(some)
        own = together.variants(lambda _: layout, _near(together, said))
        cut = own.get(said.best.num_heads)
        sure: set[str] = set()
        stride = stride_for(cut, most, coarsest(cut), excerpt) if cut is not None else 1
        if (
            cut is not None
            and _promised(said, stride, weight)
            and seen(own, said.best.num_heads, stride)
            and (excerpt is None or excerpt.tells(own, said.best.num_heads, stride))
        ):
            samples = samples_of(together.layers(lambda _: layout, cut), most, coarsest(cut), excerpt)
            sure = agreeing(_rivals(together, layout, own, said), samples, said.best, chance)
        found += [one for one in some if one.matches[0].layer not in sure]
    return found


def _promised(said: Verdict, stride: int, share: float) -> bool:
    """Whether a layer's sample will do, if the layer is as those that were weighed: noise grows with their root."""
    return share * expected(said, stride) > said.noise / len(said.layers) ** 0.5


def _near(of: Hypotheses, said: Verdict) -> list[int]:
    """The numbers of heads that could be mistaken for the stack's; its own where packings are weighed."""
    heads = said.best.num_heads
    return [heads] if said.best.label else [n for n in of.counts() if heads <= n * NEAR and n <= heads * NEAR]


def _rivals(of: Hypotheses, layout: Layout, own: Variants, said: Verdict) -> Mapping[str, Variants]:
    """The packings to be weighed where the verdict is of packings; else the heads only."""
    return packings_of(of, layout, own, [said.best.num_heads]) if said.best.label else {"": own}


def _alone(one: Hypotheses, layout: Layout, said: Verdict) -> Verdict | None:
    """The verdict of one layer, from as large a sample as any."""
    from qkvinspect.inspection.evidence import weigh_heads, weigh_packings

    own = one.variants(lambda _: layout, _near(one, said))
    if said.best.num_heads not in own:
        return None
    samples = samples_at_length(one, lambda _: layout, own)
    if said.best.label:
        return weigh_packings(_rivals(one, layout, own, said), samples)
    return weigh_heads(own, samples)
