"""What the weights of some layers say of their heads, packing and orientation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qkvinspect.inspection import alternatives
from qkvinspect.inspection.hypotheses import Hypotheses, cut_from
from qkvinspect.inspection.match import Match
from qkvinspect.inspection.report import Evidence, Verdict
from qkvinspect.layouts import Layout

if TYPE_CHECKING:
    from qkvinspect.inspection.evidence import Variants
    from qkvinspect.inspection.evidence.sample import Sample

GLANCE = 8
"""How many times less work is done to see whether what is known can be right."""

_NEAR = 4
"""Numbers of heads that differ by no more than this factor are each other's rivals."""

GLIMPSE = 320
"""Rows that are weighed of a layer, to see whether it objects to what others of its stack say."""


def affordable(of: Hypotheses, less: int = 1) -> int:
    """How many of the layers can be weighed for one question, or for one that is worth so many times less."""
    from qkvinspect.inspection.evidence import WORK, layers_within

    return layers_within([rows for rows, _ in of.matches[0].candidates[0].shapes], WORK // less)


def weigh(
    of: Hypotheses, layout: Layout, *, thorough: bool = False, glance: bool = False, counts: Sequence[int] = ()
) -> Evidence | None:
    """Ask all layers; None where they have no values to compare.

    Args:
        thorough: also which rows rotary embeddings turn, and the picture of the ties.
        glance: packings only with the number of heads that is known.
        counts: numbers of heads to weigh, if not all.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    from qkvinspect.inspection.evidence import draw, weigh_heads, weigh_packings, weigh_turns

    own = of.variants(lambda _: layout, counts or of.counts())
    samples = _samples(own)
    if not samples:
        return None
    heads = weigh_heads(own, samples)
    counts = list(own)
    if glance and of.attention.heads is not None:
        counts = [of.attention.heads.num_heads]
    elif len(layout.weights) > 1 and heads is not None:  # whose heads lie the same way, whoever is who
        counts = [one.num_heads for one in heads.weighed[:2]]
    others = _packings(of, layout, own, counts)
    enough = max(affordable(of, GLANCE), 2)  # each is cut in many ways
    packings = weigh_packings(others, samples[:enough]) if len(others) > 1 else None
    evidence = Evidence(heads, packings, _turned(of, layout, heads))
    known = of.attention.heads.num_heads if of.attention.heads else heads.best.num_heads if heads else 0
    if not thorough or known not in own:
        return evidence
    return replace(evidence, turns=weigh_turns(own[known], samples), profile=draw(own[known], samples))


def objects(one: Hypotheses, layout: Layout, said: Evidence) -> bool:
    """Whether a layer, a small sample of it, speaks against what others of its stack say.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    from qkvinspect.inspection.evidence import weigh_heads, weigh_packings

    if said.turned is not None:
        samples, own = _near(one, layout, said.turned)
        return _other_than(None, weigh_heads(own, samples))
    packings = said.packings
    if packings is not None and packings.decided and packings.best.label != alternatives.describe(layout):
        heads = packings.best.num_heads
        samples, own = _near(one, layout, packings)
        return _other_than(packings, weigh_packings(_packings(one, layout, own, [heads]), samples))
    if said.heads is None or not said.heads.decided:
        return False
    samples, own = _near(one, layout, said.heads)
    return _other_than(said.heads, weigh_heads(own, samples))


def _other_than(said: Verdict | None, own: Verdict | None) -> bool:
    """Whether a layer says something else, and surely: anything at all, where nothing was said."""
    from qkvinspect.inspection.evidence import APART

    if own is None or own.confidence <= APART:
        return False
    return said is None or (own.best.label, own.best.num_heads) != (said.best.label, said.best.num_heads)


def _near(one: Hypotheses, layout: Layout, said: Verdict) -> tuple[list[Sample], Variants]:
    """A small sample, but of every head that was said, and the numbers of heads that could be mistaken for theirs."""
    from qkvinspect.inspection.evidence import samples_of

    heads = said.best.num_heads
    own = one.variants(lambda _: layout, [n for n in one.counts() if heads <= n * _NEAR and n <= heads * _NEAR])
    cut = own.get(heads)
    if not cut:
        return [], own
    rows = min(len(run) for attention in cut for part in attention.parts for run in part.heads[:1])
    return samples_of(cut, GLIMPSE, rows // _NEAR), own


def _packings(of: Hypotheses, layout: Layout, own: Variants, counts: Sequence[int]) -> Mapping[str, Variants]:
    """The tensors divided in every other way, and as if they had been cut from one that was."""
    others = {
        label: of.variants(lambda _, other=other: other, counts)
        for label, other in alternatives.packings(layout).items()
    }
    cuts = alternatives.cuts(layout).items()
    return others | {label: found for label, packing in cuts if (found := cut_from(own, packing))}


def _samples(own: Variants) -> list[Sample]:
    from qkvinspect.inspection.evidence import samples_of

    return samples_of(next(iter(own.values()))) if own else []


def _turned(of: Hypotheses, layout: Layout, heads: Verdict | None) -> Verdict | None:
    """The heads if the weights lay the other way round, where that explains them better."""
    from qkvinspect.inspection.evidence import weigh_heads

    other = alternatives.turned(layout)
    square = all(len(info.shape) == 2 and len(set(info.shape)) == 1 for info in of.attention.weights)
    if not square or other is None or (heads is not None and heads.decided):
        return None
    variants = of.variants(lambda _: other, of.counts())
    verdict = weigh_heads(variants, _samples(variants))
    if verdict is None or not verdict.decided:
        return None
    return verdict if heads is None or verdict.best.score > 2 * heads.best.score else None


def settle(of: Hypotheses, ids: Sequence[str], counts: Sequence[int]) -> Verdict | None:
    """Weigh the layouts that the names leave open, with the numbers of heads that are known, or all."""
    from qkvinspect.inspection.evidence import weigh_packings

    choices = _choices(of, ids, counts or of.counts())
    usable = [cut for cut in choices.values() if cut]
    return weigh_packings(choices, _samples(usable[0])) if usable else None


def unsettled(one: Hypotheses, ids: Sequence[str], said: Verdict) -> bool:
    """Whether a layer alone speaks for another layout than its stack."""
    from qkvinspect.inspection.evidence import weigh_packings

    choices = _choices(one, ids, [said.best.num_heads])
    return _other_than(said, weigh_packings(choices, _samples(choices.get(said.best.label, {}))))


def _choices(of: Hypotheses, ids: Sequence[str], counts: Sequence[int]) -> Mapping[str, Variants]:
    return {name: of.variants(lambda match, name=name: _layout(match, name), counts) for name in ids}


def _layout(match: Match, id: str) -> Layout:
    return next(candidate.layout for candidate in match.candidates if candidate.layout.id == id)
