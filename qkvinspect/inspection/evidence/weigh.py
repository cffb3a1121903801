"""Decide which hypothesis the weights support, and how surely."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.evidence import rotary
from qkvinspect.inspection.evidence.alone import as_packed, with_heads
from qkvinspect.inspection.evidence.apart import APART, unless_apart
from qkvinspect.inspection.evidence.excerpt import Excerpt
from qkvinspect.inspection.evidence.exchange import like_exchanged
from qkvinspect.inspection.evidence.fit import Fit, are_alike, together
from qkvinspect.inspection.evidence.groups import explained, parts_of, score_of
from qkvinspect.inspection.evidence.index import index_of, source_of
from qkvinspect.inspection.evidence.odds import noise_of, share_of
from qkvinspect.inspection.evidence.over_channels import may_be_over_channels
from qkvinspect.inspection.evidence.profile import profile
from qkvinspect.inspection.evidence.sample import MAX_ROWS, Sample, at_once, stride_of, take
from qkvinspect.inspection.evidence.ways import Fits, HeadsInOrder, Variants, comparable, every_packing, every_way
from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.verdict import Verdict, Weighed, exchanged

SURE = 0.99
"""The confidence from which an answer is given."""

_FAINT = 0.5
"""The share of its score with which a larger number of heads may explain the likeliest and still be the answer."""

_NONE: Mapping[str, str] = MappingProxyType({})

WORK = 2 << 20
"""Entries of similarity matrices that are computed for one question, if that settles it."""


def layers_within(rows: Sequence[int], work: int) -> int:
    """How many layers, whose weights have so many rows, can be weighed with so much work, though at least one."""
    with_out = sum(rows) * 4 // 3 // stride_of(rows)
    return max(work // max(with_out, 1) ** 2, 1)


def stride_for(
    attention: Attention, most: int = MAX_ROWS, coarsest: int | None = None, excerpt: Excerpt | None = None
) -> int:
    """One row in how many a sample of a layer has, or one of an excerpt."""
    source = source_of(attention)
    wanted = None if excerpt is None else excerpt.count(attention)
    return stride_of(source.rows, most, coarsest, wanted) if source is not None else 1


def samples_of(
    attentions: Sequence[Attention], most: int = MAX_ROWS, coarsest: int | None = None, excerpt: Excerpt | None = None
) -> list[Sample]:
    """Read a sample of each layer that has values to compare.

    Args:
        most: rows of a layer.
        coarsest: one row in so many at the least.
        excerpt: the rows that are taken; None for all, and columns of the output projection.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if not attentions:
        return []
    stride = stride_for(attentions[0], most, coarsest, excerpt)
    rows = None if excerpt is None else excerpt.rows(attentions[0], stride)
    if excerpt is not None and rows is None:
        return []
    sources = [source for attention in attentions if (source := source_of(attention)) is not None]
    taken = (take(source, stride, rows) for source in sources)
    return [sample for sample in taken if sample is not None]


def weigh_heads(variants: Variants, samples: Sequence[Sample]) -> Verdict | None:
    """Weigh numbers of heads against each other; None where there is nothing to weigh."""
    fits = every_way(variants, at_once(samples))
    if not fits:
        return None
    layers = tuple(sample.layer for sample in samples)
    verdict = _heads(fits, layers)
    if not verdict.confidence and (common := _in_common(fits)):
        verdict = _more_visible(_heads(comparable(common, variants), layers), verdict)
    verdict = replace(verdict, stride=samples[0].stride)
    if len(layers) < 2 or not verdict.confidence:
        return verdict
    others = np.flatnonzero(~with_heads(fits, verdict.best, APART)).tolist()
    return unless_apart(verdict, [_heads(_only(fits, i), layers[i : i + 1]) for i in others])


def agreeing(packings: Mapping[str, Variants], samples: Sequence[Sample], said: Weighed, chance: float) -> set[str]:
    """The layers of which each alone is sure of the heads, or the packing, that are said of all.

    Args:
        chance: with which noise may seem to have these heads.
        packings: among which the packing is weighed; where it is the heads, one with no name.
    """
    fits = every_packing(packings, at_once(samples))
    own = fits.get(said.label)
    if own is None or HeadsInOrder(said.num_heads, said.tiled) not in own:
        return set()
    alike = (
        as_packed(fits, said, APART) if said.label else with_heads(comparable(own, packings[""]), said, APART, chance)
    )
    return {sample.layer for sample, agrees in zip(samples, alike.tolist(), strict=True) if agrees}


def weigh_packings(
    packings: Mapping[str, Variants], samples: Sequence[Sample], words: Mapping[str, str] = _NONE
) -> Verdict | None:
    """Weigh packings of the same tensors against each other, each with the number of heads that suits it best.

    All of them explain the same entries, so their likelihoods compare as they are.

    Args:
        words: those that layouts have, in words; the first if there are none.
    """
    fits = every_packing(packings, at_once(samples))
    if not fits:
        return None
    layers = tuple(sample.layer for sample in samples)
    declared = next(iter(packings))
    words = words or {declared: declared}
    verdict = _packings(fits.items(), layers, words)
    if not verdict.confidence and all(map(_has_common_law, fits.values())):
        common = ((label, _in_common(own)) for label, own in fits.items())  # one at a time: they take room
        verdict = _more_visible(_packings(common, layers, words), verdict)
    verdict = _unless_over_channels(verdict, packings, fits, samples)
    if len(layers) < 2 or not verdict.confidence:
        return verdict
    others = np.flatnonzero(~as_packed(fits, verdict.best)).tolist()
    one_by_one = ((i, {label: _only(own, i) for label, own in fits.items()}) for i in others)
    return unless_apart(verdict, [_packings(one.items(), layers[i : i + 1], words) for i, one in one_by_one])


def each_by_itself(packings: Mapping[str, Variants], samples: Sequence[Sample]) -> Iterator[Verdict | None]:
    """As ``weigh_packings`` of each layer alone, one after the other; layers alike in form are compared at once."""
    for sample, own in _one_by_one(samples, lambda batch: every_packing(packings, [batch])):
        yield _own_packing(packings, own, sample)


def heads_of_each(variants: Variants, samples: Sequence[Sample]) -> Iterator[Verdict | None]:
    """As ``weigh_heads`` of each layer alone, one after the other; layers alike in form are compared at once."""
    for sample, own in _one_by_one(samples, lambda batch: {"": every_way(variants, [batch])}):
        yield _own_heads(own[""], sample)


def both_of_each(
    packings: Mapping[str, Variants], samples: Sequence[Sample]
) -> Iterator[tuple[Verdict | None, Verdict | None]]:
    """Both at once, the heads as the first of the packings has them: all packings have one number of these."""
    for sample, own in _one_by_one(samples, lambda batch: every_packing(packings, [batch])):
        yield _own_heads(own.get(next(iter(packings)), {}), sample), _own_packing(packings, own, sample)


def _own_heads(fits: Fits, sample: Sample) -> Verdict | None:
    return replace(_heads(fits, (sample.layer,)), stride=sample.stride) if fits else None


def _own_packing(packings: Mapping[str, Variants], fits: Mapping[str, Fits], sample: Sample) -> Verdict | None:
    if not fits:
        return None
    return _unless_over_channels(_packings(fits.items(), (sample.layer,)), packings, fits, [sample])


def _one_by_one(
    samples: Sequence[Sample], fitted: Callable[[Sample], Mapping[str, Fits]]
) -> Iterator[tuple[Sample, Mapping[str, Fits]]]:
    """Each layer, and how well each way to cut it explains it."""
    left = iter(samples)
    for batch in at_once(samples):
        fits = fitted(batch)
        for number, sample in zip(range(batch.layers), left, strict=False):
            yield sample, {label: _only(ways, number) for label, ways in fits.items()}


def _unless_over_channels(
    verdict: Verdict, packings: Mapping[str, Variants], fits: Mapping[str, Fits], samples: Sequence[Sample]
) -> Verdict:
    """The verdict, withdrawn where what speaks for it may be attention over channels."""
    if verdict.decided and _over_channels(packings, fits, samples, verdict.best.label):
        return replace(verdict, decided=False, confidence=0.0)
    return verdict


def _over_channels(
    packings: Mapping[str, Variants], fits: Mapping[str, Fits], samples: Sequence[Sample], best: str
) -> bool:
    """Whether the parts may be as the first packing says, and the softmax over channels."""
    first = next(iter(fits))
    for heads, as_said in fits[best].items():
        if first != best and not heads.tiled and heads in fits[first]:
            declared, said = (packings[label][heads.number] for label in (first, best))
            return may_be_over_channels(declared, said, fits[first][heads], as_said, samples)
    return False


def _in_common(fits: Fits) -> Fits:
    """The layers under one law for all; empty where there is none, or but one layer."""
    if not _has_common_law(fits):
        return {}
    return {heads: [one] for heads, of in fits.items() if (one := together(of)) is not None}


def _has_common_law(fits: Fits) -> bool:
    """Whether there are several layers, which may follow one law."""
    return sum(one.layers for one in next(iter(fits.values()))) > 1 and all(map(are_alike, fits.values()))


def _only(fits: Fits, number: int) -> Fits:
    """One layer's."""
    return {heads: [_of_layer(of, number)] for heads, of in fits.items()}


def _of_layer(fits: Sequence[Fit], number: int) -> Fit:
    for one in fits:
        if number < one.layers:
            return one if one.layers == 1 else one.of_layer(number)
        number -= one.layers
    raise IndexError(number)


def _more_visible(common: Verdict, own: Verdict) -> Verdict:
    """The verdict under one law for all layers, if heads stand out from noise there: with a law each they do not."""
    return common if common.confidence else own


def _heads(fits: Fits, layers: tuple[str, ...]) -> Verdict:
    scores = {heads: score_of([one.gain() for one in of]) for heads, of in fits.items()}
    near = {heads.number: of for heads, of in fits.items() if not heads.tiled}
    groups = explained({number: scores[HeadsInOrder(number)] for number in near}, near)
    gone = {HeadsInOrder(number): by for number, by in groups.items()}
    order = sorted(scores, key=lambda heads: (heads in gone, -scores[heads]))
    noise = _noise(fits)
    top = scores[order[0]]
    confidence = (
        share_of(top, [0.0, *(scores[heads] for heads in order[1:] if heads not in gone)]) if top > noise else 0.0
    )
    weighed = tuple(Weighed("", heads.number, scores[heads], gone.get(heads), tiled=heads.tiled) for heads in order)
    parted = parts_of(order[0].number, top, near) if confidence and not order[0].tiled else None
    sure = confidence >= SURE and parted is None
    faint = any(_FAINT * scores[heads] > top for heads in gone)
    decided = sure and not faint and not _halves_differ(near)
    return Verdict(weighed, layers, noise, confidence, decided, parted=parted)


def _halves_differ(fits: Mapping[int, Sequence[Fit]]) -> bool:
    """Whether Q with K is as sure of one number of heads as V with the output is of another, as where heads of Q and K
    are divided further.
    """
    halves = [
        {heads: [one.gains_of_halves()[half] for one in of] for heads, of in fits.items() if of[0].nests}
        for half in (0, 1)
    ]
    found: set[int] = set()
    for gains in filter(None, halves):
        scores = {heads: score_of(of) for heads, of in gains.items()}
        best = max(scores, key=lambda heads: scores[heads])
        others = [score for heads, score in scores.items() if heads != best]
        noise = noise_of(max(sum(one.of_all.variance for one in of) for of in gains.values()), len(gains))
        if scores[best] > noise and share_of(scores[best], others) >= SURE:
            found.add(best)
    return len(found) > 1


def _packings(fits: Iterable[tuple[str, Fits]], layers: tuple[str, ...], words: Mapping[str, str] = _NONE) -> Verdict:
    weighed: list[Weighed] = []
    gain = noise = 0.0
    for label, own in fits:
        scores = {heads: score_of([one.fitted for one in of]) for heads, of in own.items()}
        best = max(scores, key=lambda heads: scores[heads])
        alike = [abs(scores[best] - one.score) < 1e-6 and one.num_heads == best.number for one in weighed]
        same = [i for i, is_alike in enumerate(alike) if is_alike]
        if same:
            first = weighed[same[0]]
            if label != exchanged(first.label):
                weighed[same[0]] = replace(first, same_rows=first.same_rows or label)
            continue
        weighed.append(Weighed(label, best.number, scores[best], tiled=best.tiled))
        if scores[best] >= max(one.score for one in weighed):
            noise = _noise(own)
            gain = score_of([one.gain() for one in own[best]])
    weighed.sort(key=lambda one: -one.score)
    worst = weighed[-1].score
    confidence = share_of(weighed[0].score, [one.score for one in weighed[1:]]) if gain > noise else 0.0
    decided = confidence >= SURE and not like_exchanged(weighed, gain, words)
    relative = tuple(replace(one, score=one.score - worst) for one in weighed)
    return Verdict(relative, layers, noise, confidence, decided)


def weigh_turns(attention: Attention, samples: Sequence[Sample]) -> Verdict | None:
    """Weigh which rows of a head a rotary embedding turns together; None where that cannot be asked."""
    index = index_of(attention, samples[0].stride) if samples else None
    scores = rotary.score(samples, index) if index else {}
    if not scores:
        return None
    order = sorted(scores, key=lambda pairing: -scores[pairing])
    other = max((scores[pairing] for pairing in order if pairing.turn != order[0].turn), default=0.0)
    best = scores[order[0]]
    decided = best >= rotary.ENOUGH and best - other >= rotary.AHEAD
    confidence = share_of(best, [0.0, other]) if decided else 0.0
    heads = attention.geometry.num_heads if attention.geometry else 0
    weighed = tuple(Weighed(one.label, heads, scores[one], turn=one.turn) for one in order)
    return Verdict(weighed, tuple(sample.layer for sample in samples), rotary.ENOUGH, confidence, decided)


def draw(attention: Attention, samples: Sequence[Sample]) -> tuple[tuple[int, float], ...]:
    """The tie between rows against their distance, for the heads that the layers are cut into."""
    index = index_of(attention, samples[0].stride) if samples else None
    return profile(samples, index) if index else ()


def _noise(fits: Fits) -> float:
    """The gain that the best of several hypotheses exceeds once in ``1 / CHANCE`` times on noise."""
    return noise_of(max(sum(one.layers * one.gain().variance for one in of) for of in fits.values()), len(fits))
