"""Infer the heads, packing and orientation of some layers from their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection import alternatives
from qkvinspect.inspection.hypotheses import Hypotheses, cut_from
from qkvinspect.inspection.match import Match
from qkvinspect.inspection.verdict import Evidence, Verdict
from qkvinspect.layouts import Layout

if TYPE_CHECKING:
    from qkvinspect.inspection.evidence import Variants
    from qkvinspect.inspection.evidence.sample import Sample
    from qkvinspect.inspection.report import Attention

GLANCE = 8
"""The factor by which the quick check of known heads does less work than a full answer."""

NEAR = 4
"""Numbers of heads that differ by no more than this factor could be mistaken for each other."""

STRETCH = 4
"""How many times more layers are weighed where the first do not settle it."""

GLIMPSE = 320
"""Rows of a layer that are sampled to see whether it contradicts the others of its stack."""

_REFUTED = 100.0
"""The score by which a small sample refutes a packing: odds of over 200,000, at the temperature of ``weigh``."""


def affordable(of: Hypotheses, less: int = 1) -> int:
    """How many of the layers can be weighed for one question, or for one that is worth so many times less."""
    from qkvinspect.inspection.evidence import WORK, layers_within

    return layers_within([rows for rows, _ in of.matches[0].candidates[0].shapes], WORK // less)


def weigh(
    of: Hypotheses,
    layout: Layout,
    *,
    thorough: bool = False,
    glance: bool = False,
    further: Hypotheses | None = None,
) -> Evidence | None:
    """Weigh the layers together; None where they have no values to compare.

    Args:
        thorough: also which rows rotary embeddings turn, and the picture of the ties.
        glance: packings only with the number of heads that is known.
        further: more layers, which are weighed instead if they may settle what these do not.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    from qkvinspect.inspection.evidence import (
        draw,
        rows_move,
        samples_of,
        stride_for,
        weigh_heads,
        weigh_packings,
        weigh_turns,
    )

    own = of.variants(lambda _: layout, _shown(of, layout))
    if glance and (sure := confirmed(of, layout, own)) and (said := sure[-1]) is not None and all(sure):
        return said
    if not own:
        return None
    layers = of.layers(lambda _: layout, next(iter(own.values())))
    samples = samples_of(layers)
    if not samples:
        return None
    known = of.attention.heads.num_heads if of.attention.heads else None
    if known is not None and known not in own:
        return None  # what is known cannot be compared with anything, as for V of another width
    heads = weigh_heads(own, samples)
    if further is not None and heads is not None and _promising(heads):
        return weigh(further, layout, thorough=thorough)
    counts = list(own)
    if glance and known is not None:
        said = heads.best.num_heads if heads is not None and heads.decided else known
        counts = [n for n in own if n in (known, said)]
    elif (
        all(len(stored.packing.order) == 1 for stored in layout.weights) and heads is not None
    ):  # whose heads lie the same way, whoever is who
        counts = [one.num_heads for one in heads.weighed[:2]]
    stride = samples[0].stride
    counts = [n for n in counts if n == known or _thinnest(own[n]) >= 2 * stride]
    others = packings_of(of, layout, own, counts)
    enough = max(affordable(of, GLANCE), 2)  # each is cut in many ways
    packings = None
    if len(others) > 1 and not thorough:
        cut = own[known or (heads.best.num_heads if heads else next(iter(own)))]
        few = coarsest(cut)
        if heads is not None and expected(heads, stride_for(cut, GLIMPSE, few)) > _REFUTED:
            others, packings = _glimpsed(others, samples_of(layers[:enough], GLIMPSE, few))
    if len(others) > 1:
        packings = weigh_packings(others, samples[:enough])
    as_declared = packings is None or packings.best.label == next(iter(others))
    if heads is not None and rows_move(own) and packings is not None and not (packings.decided and as_declared):
        heads = replace(heads, decided=False)  # in wrong rows any number may seem likely
    evidence = Evidence(heads, packings, _turned(of, layout, heads), as_declared=as_declared)
    shown = known or (heads.best.num_heads if heads else 0)
    if not thorough or shown not in own:
        return evidence
    return replace(evidence, turns=weigh_turns(own[shown], samples), profile=draw(own[shown], samples))


def _promising(heads: Verdict) -> bool:
    """Whether more layers may settle what these do not: the score grows with them, the noise with their root."""
    return not heads.decided and heads.best.score > heads.noise / STRETCH


def glimpsed(of: Hypotheses, layout: Layout) -> Evidence | None:
    """What small samples of some layers say of heads that are not known; None where they do not settle everything.

    They do where heads stand out of which a larger number was weighed as well, and every other packing is refuted.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    from qkvinspect.inspection.evidence import samples_of, stride_for, weigh_heads, weigh_packings, weighable

    own = of.variants(lambda _: layout, _shown(of, layout))
    cut = next(iter(own.values()), None)
    if cut is None or stride_for(cut, GLIMPSE) == stride_for(cut):
        return None
    samples = samples_of(of.layers(lambda _: layout, cut), GLIMPSE)
    heads = weigh_heads(own, samples)
    if heads is None or not heads.decided or not seen(own, heads.best.num_heads, samples[0].stride):
        return None
    others = packings_of(of, layout, own, [one.num_heads for one in heads.weighed[:2]])
    if len(others) == 1:
        return Evidence(heads)
    if not all(weighable(cut, heads.stride) for cut in others.values() if cut):
        return None
    found = weigh_packings(others, samples)
    if found is None or not found.decided or found.best.label != next(iter(others)):
        return None
    near = [one for one in found.weighed[1:] if found.best.score - one.score <= _REFUTED]
    return None if near else Evidence(heads, found)


def _shown(of: Hypotheses, layout: Layout) -> list[int]:
    """The numbers of heads; where none is known without those of which no sample has two rows: they are slow to cut."""
    from qkvinspect.inspection.evidence import stride_for

    counts = of.counts()
    if of.attention.heads is not None:
        return counts
    cuts = (cut for count in counts for cut in of.variants(lambda _: layout, [count]).values())
    cut = next(cuts, None)
    rows = sum(part.shape[0] for part in cut.parts) // stride_for(cut) if cut is not None else 0
    return [count for count in counts if rows >= 2 * count]


def seen(own: Variants, heads: int, stride: int) -> bool:
    """Whether a coarser sample shows all numbers of heads that a full one does, but for much larger multiples."""
    from qkvinspect.inspection.evidence import stride_for, weighable

    missing = weighable(own, stride_for(own[heads])) - weighable(own, stride)
    return all(n % heads == 0 and n >= NEAR * heads for n in missing)


def confirmed(of: Hypotheses, layout: Layout, own: Variants) -> list[Evidence | None]:
    """What a small sample says of each layer with values to compare; None where it is not sure of what is known.

    That is the number of heads, and the declared packing.
    """
    from qkvinspect.inspection.evidence import each_by_itself, heads_of_each, samples_of

    known = of.attention.heads.num_heads if of.attention.heads else None
    cut = own.get(known) if known is not None else None
    if cut is None or known is None:
        return []
    samples = samples_of(of.layers(lambda _: layout, cut), GLIMPSE, coarsest(cut))
    heads = [
        said if said is not None and said.decided and said.best.num_heads == known else None
        for said in heads_of_each(own, samples)
    ]
    packings = packings_of(of, layout, own, [known])
    if len(packings) == 1:
        return [said and Evidence(said) for said in heads]
    likely = [sample for sample, said in zip(samples, heads, strict=True) if said is not None]
    verdicts = each_by_itself(packings, likely)
    return [said and _of_declared(said, next(verdicts), packings) for said in heads]


def _of_declared(heads: Verdict, found: Verdict | None, packings: Mapping[str, Variants]) -> Evidence | None:
    """What a layer's sample says, if it refutes every packing but the first."""
    return Evidence(heads, found) if len(packings.keys() - _refuted(found, next(iter(packings)))) == 1 else None


def expected(said: Verdict, stride: int) -> float:
    """The score of one layer's sample: it grows with the pairs of rows that are compared."""
    return said.best.score / len(said.layers) * (said.stride / stride) ** 2


def packings_of(of: Hypotheses, layout: Layout, own: Variants, counts: Sequence[int]) -> Mapping[str, Variants]:
    """The layout's own packing first, then all others, and packings of a fused tensor that they may be cut from.

    Without those of which no sample shows the heads, as it has but one row in several.
    """
    from qkvinspect.inspection.evidence import stride_for

    stride = stride_for(next(iter(own.values())))
    others = {
        label: of.repacked(own, other, counts)
        for label, other in alternatives.packings(layout).items()
        if stride == 1 or other is layout or alternatives.in_runs(other)
    }
    cuts = alternatives.cuts(layout).items()
    return others | {label: found for label, packing in cuts if (found := cut_from(own, packing))}


def _glimpsed(
    packings: Mapping[str, Variants], samples: Sequence[Sample]
) -> tuple[Mapping[str, Variants], Verdict | None]:
    """The packings that small samples of some layers leave open, and their verdict.

    They refute the others only where each layer alone is sure of the declared one, the first, and far ahead of them.
    """
    from qkvinspect.inspection.evidence import each_by_itself

    found, gone = None, packings.keys()
    for found in each_by_itself(packings, samples):
        gone = gone & _refuted(found, next(iter(packings)))
        if not gone:
            return packings, None
    return (packings, None) if found is None else ({k: v for k, v in packings.items() if k not in gone}, found)


def _refuted(found: Verdict | None, declared: str) -> set[str]:
    """The packings that are far behind the declared one; none where a sample is not sure of that."""
    if found is None or not found.decided or found.best.label != declared:
        return set()
    gone = [one for one in found.weighed if found.best.score - one.score > _REFUTED]
    return {label for one in gone for label in (one.label, one.same_rows)}


def coarsest(cut: Attention) -> int:
    """The greatest step between sampled rows that leaves a few of each head."""
    return _thinnest(cut) // NEAR


def _thinnest(cut: Attention) -> int:
    """The fewest rows of a head."""
    return min(len(run) for part in cut.parts for run in part.heads[:1])


def samples_at_length(of: Hypotheses, layout: Callable[[Match], Layout], own: Variants) -> list[Sample]:
    from qkvinspect.inspection.evidence import samples_of

    return samples_of(of.layers(layout, next(iter(own.values())))) if own else []


def _turned(of: Hypotheses, layout: Layout, heads: Verdict | None) -> Verdict | None:
    """The heads of the transposed weights, where these explain the weights better."""
    from qkvinspect.inspection.evidence import weigh_heads

    if heads is not None and heads.decided:
        return None
    return if_likelier(weigh_heads(*turned_round(of, layout)), heads)


def turned_round(of: Hypotheses, layout: Layout) -> tuple[Variants, list[Sample]]:
    """The transposed weights with every number of heads; none where they are not square."""
    other = alternatives.turned(layout)
    square = all(len(info.shape) == 2 and len(set(info.shape)) == 1 for info in of.attention.weights)
    if not square or other is None or not of.matches:
        return {}, []
    variants = of.variants(lambda _: other, of.counts())
    return variants, samples_at_length(of, lambda _: other, variants)


def if_likelier(turned: Verdict | None, heads: Verdict | None) -> Verdict | None:
    """The heads of the transposed weights, if these explain the weights far better."""
    if turned is None or not turned.decided:
        return None
    return turned if heads is None or turned.best.score > 2 * heads.best.score else None
