"""Choose between the layouts that the names of some layers leave open, by their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from qkvinspect.inspection import alternatives
from qkvinspect.inspection.asking import samples_at_length
from qkvinspect.inspection.hypotheses import Hypotheses
from qkvinspect.inspection.match import Match
from qkvinspect.inspection.verdict import Verdict
from qkvinspect.inspection.wide_v import WIDE_V
from qkvinspect.layouts import Layout

if TYPE_CHECKING:
    from qkvinspect.inspection.evidence import Variants


def settle(of: Hypotheses, ids: Sequence[str], counts: Sequence[int]) -> Verdict | None:
    """Weigh the layouts that the names leave open, with the numbers of heads that are known, or all.

    Those that read the tensors the other way round explain other entries, so their likelihoods do not compare: one way
    is right where heads stand out from noise in it and in no other. V seems wide where kv heads are shared and lie
    first, so where it may be wide the other orders are weighed as well, by their packings in words.
    """
    from qkvinspect.inspection.evidence import weigh_packings

    counts = counts or of.counts()
    visible: list[Verdict | None] = []
    for alike in _read_alike(of, ids):
        choices = _choices(of, alike, counts)
        usable = [name for name, cut in choices.items() if cut]
        if not usable:
            continue
        if WIDE_V in alike and len(alike) > 1:
            choices |= _otherwise(of, alike, counts)
        words = {name: alternatives.describe(_layout(of.matches[0], name)) for name in alike if name != WIDE_V}
        verdict = weigh_packings(choices, samples_at_length(of, _named(usable[0]), choices[usable[0]]), words)
        visible += [verdict] if verdict is not None and verdict.confidence else []
    return visible[0] if len(visible) == 1 else None


def _read_alike(of: Hypotheses, ids: Sequence[str]) -> Iterable[Sequence[str]]:
    """The layouts of each way in which the tensors may lie."""
    ways: dict[tuple[str, ...], list[str]] = {}
    for name in ids:
        stored = _layout(of.matches[0], name).weights
        ways.setdefault(tuple(one.orientation for one in stored), []).append(name)
    return ways.values()


def unsettled(one: Hypotheses, ids: Sequence[str], said: Verdict) -> bool:
    """Whether a layer alone speaks for another layout than its stack."""
    from qkvinspect.inspection.evidence import unless_apart, weigh_packings

    alike = next(some for some in _read_alike(one, ids) if said.best.label in some)
    choices = _choices(one, alike, [said.best.num_heads])
    samples = samples_at_length(one, _named(said.best.label), choices.get(said.best.label, {}))
    own = weigh_packings(choices, samples)
    return own is not None and bool(unless_apart(said, [own]).apart)


def _choices(of: Hypotheses, ids: Sequence[str], counts: Sequence[int]) -> dict[str, Variants]:
    return {name: of.variants(_named(name), counts) for name in ids}


def _otherwise(of: Hypotheses, ids: Sequence[str], counts: Sequence[int]) -> dict[str, Variants]:
    """The tensor in blocks and per kv head, in the orders that no candidate has."""
    layouts = [_layout(of.matches[0], name) for name in ids]
    known = {alternatives.describe(layout) for layout in layouts}
    first = next(layout for layout in layouts if layout.id != WIDE_V)
    others = {words: other for words, other in alternatives.of_any_order(first).items() if words not in known}
    return {words: of.variants(lambda _, other=other: other, counts) for words, other in others.items()}


def _named(id: str) -> Callable[[Match], Layout]:
    return lambda match: _layout(match, id)


def _layout(match: Match, id: str) -> Layout:
    return next(candidate.layout for candidate in match.candidates if candidate.layout.id == id)
