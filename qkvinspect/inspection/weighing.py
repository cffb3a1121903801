"""Ask the weights themselves: where nothing else tells heads or layout, and whether they agree where it does."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.findings import AGAINST_WEIGHTS, Finding
from qkvinspect.inspection import alternatives as rivals
from qkvinspect.inspection.candidates import Candidate, DecidedBy, Match
from qkvinspect.inspection.facts.fact import HeadFact, SaidBy
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.notices import about_evidence
from qkvinspect.inspection.report import Attention, Evidence, Verdict
from qkvinspect.inspection.split import split, unsplit
from qkvinspect.layouts import Layout
from qkvinspect.layouts.packing import Packing
from qkvinspect.weights.adapters.low_rank import is_update

if TYPE_CHECKING:
    from qkvinspect.inspection.evidence import Variants

Facts = Callable[[Candidate], Sequence[HeadFact]]
"""What is known of a layer's heads from elsewhere."""

_GLANCE = 8
"""How many times less work is done to see whether what is known can be right."""

_STRETCH = 4
"""How many times more layers are weighed where the first do not settle it."""

_MOST_HEADS = 1024


@dataclass(frozen=True, slots=True)
class Module:
    """An attention module on its way into the report.

    Attributes:
        attention: None where its shapes contradict its layout.
    """

    match: Match
    attention: Attention | None
    findings: tuple[Finding, ...]


def ask(
    modules: Sequence[Module],
    wanted: Callable[[Match], bool],
    names: Names,
    facts: Facts,
    *,
    thorough: bool,
    each: bool = False,
) -> list[Module]:
    """Weigh what is open, and what is known against the weights.

    Args:
        modules: all of them: layers that are not wanted speak for others of their stack.
        thorough: weigh every stack at length and keep what came of it; else a stack whose heads are known gets
            a glance, and more only where that contradicts them.
        each: look at every layer alone as well: one of many may be packed otherwise.

    Returns:
        the wanted ones.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    stacks: dict[object, list[Module]] = {}
    for module in modules:
        if module.attention is not None and not _without_values(module.attention):
            stacks.setdefault(_kind(module.attention), []).append(module)
    told: dict[int, Module] = {}
    for stack in stacks.values():
        chosen = [module for module in stack if wanted(module.match)]
        if chosen:
            answer = _WeighedTogether(stack, names, facts).answer(thorough)
            told |= {id(module): answer(module) for module in chosen}
            if each and len(stack) > 1:
                told |= {id(module): _alone(told[id(module)], names, facts) for module in chosen}
    return [told.get(id(module), module) for module in modules if wanted(module.match)]


def _alone(module: Module, names: Names, facts: Facts) -> Module:
    """The module with what its own weights have against what its stack says, if that has nothing against it."""
    attention = module.attention
    if attention is None or attention.heads is None or any(map(_contradicts, module.findings)):
        return module
    return _WeighedTogether([module], names, facts).alone(module)


def _kind(attention: Attention) -> object:
    """Layers with the same kind share their heads: same stack, layout, shapes, and the same said of their heads."""
    before = re.split(r"\d+", attention.layer)[:-1]
    shapes = tuple(info.shape for info in attention.weights)
    return tuple(before), attention.candidates, shapes, attention.heads_from, str(attention.heads)


def _without_values(attention: Attention) -> bool:
    """Whether they say nothing of heads: what an adapter adds has the rank that it was given, and not their form."""
    return any(weight.no_values or is_update(weight) for weight in attention.weights)


@dataclass(frozen=True, slots=True)
class _WeighedTogether:
    """Layers that share their heads and packing: those that are weighed."""

    modules: Sequence[Module]
    names: Names
    facts: Facts

    def answer(self, thorough: bool) -> Callable[[Module], Module]:
        """What the weights mean for any layer of the stack."""
        layout = self._attention.layout
        if layout is None:
            return self._settle(thorough)
        if self._attention.heads is not None and not thorough:
            glance = self._few(self._affordable(_GLANCE))._weigh(layout, glance=True)
            if glance is None or not self._against(glance):
                return lambda module: module
        evidence = self._few(max(self._affordable(), 2))._weigh(layout, thorough=thorough)
        if evidence is not None and _promising(evidence):
            evidence = self._few(_STRETCH * self._affordable())._weigh(layout, thorough=thorough)
        return (lambda module: module) if evidence is None else (lambda module: self._told(module, evidence))

    def alone(self, module: Module) -> Module:
        """The one layer, whose heads are taken as known: its packing and orientation only."""
        layout, heads = self._attention.layout, self._attention.heads
        assert layout is not None
        assert heads is not None
        glance = self._weigh(layout, glance=True, counts=[heads.num_heads])
        if glance is None or not any(map(_contradicts, self._against(glance))):
            return module
        evidence = self._weigh(layout)
        against = filter(_contradicts, self._against(evidence)) if evidence is not None else ()
        return replace(module, findings=(*module.findings, *against))

    @property
    def _attention(self) -> Attention:
        found = self.modules[0].attention
        assert found is not None
        return found

    def _few(self, count: int) -> _WeighedTogether:
        """At most so many of the layers, spread over the stack."""
        count = min(count, len(self.modules))
        return replace(self, modules=[self.modules[i * len(self.modules) // count] for i in range(count)])

    def _affordable(self, less: int = 1) -> int:
        from qkvinspect.inspection.evidence import WORK, layers_within

        return layers_within([rows for rows, _ in self.modules[0].match.candidates[0].shapes], WORK // less)

    def _against(self, evidence: Evidence) -> list[Finding]:
        layout = self._attention.layout
        return list(about_evidence(self._attention, evidence, rivals.describe(layout) if layout else ""))

    def _weigh(
        self, layout: Layout, *, thorough: bool = False, glance: bool = False, counts: Sequence[int] = ()
    ) -> Evidence | None:
        from qkvinspect.inspection.evidence import draw, samples_of, weigh_heads, weigh_packings, weigh_turns

        own = self._variants(lambda _: layout, counts or self._counts())
        samples = samples_of(next(iter(own.values()))) if own else []
        if not samples:
            return None
        heads = weigh_heads(own, samples)
        counts = list(own)
        if glance and self._attention.heads is not None:
            counts = [self._attention.heads.num_heads]
        elif len(layout.weights) > 1 and heads is not None:  # whose heads lie the same way, whoever is who
            counts = [one.num_heads for one in heads.weighed[:2]]
        others = {
            label: self._variants(lambda _, other=other: other, counts)
            for label, other in rivals.packings(layout).items()
        }
        others |= {label: found for label, packing in rivals.cuts(layout).items() if (found := _cut_from(own, packing))}
        enough = max(self._affordable(_GLANCE), 2)  # each is cut in many ways
        packings = weigh_packings(others, samples[:enough]) if len(others) > 1 else None
        evidence = Evidence(heads, packings, self._turned(layout, heads))
        known = self._attention.heads.num_heads if self._attention.heads else heads.best.num_heads if heads else 0
        if not thorough or known not in own:
            return evidence
        return replace(evidence, turns=weigh_turns(own[known], samples), profile=draw(own[known], samples))

    def _turned(self, layout: Layout, heads: Verdict | None) -> Verdict | None:
        """The heads if the weights lay the other way round, where that explains them better."""
        from qkvinspect.inspection.evidence import samples_of, weigh_heads

        other = rivals.turned(layout)
        square = all(len(info.shape) == 2 and len(set(info.shape)) == 1 for info in self._attention.weights)
        if not square or other is None or (heads is not None and heads.decided):
            return None
        variants = self._variants(lambda _: other, self._counts())
        samples = samples_of(next(iter(variants.values()))) if variants else []
        verdict = weigh_heads(variants, samples) if samples else None
        if verdict is None or not verdict.decided:
            return None
        return verdict if heads is None or verdict.best.score > 2 * heads.best.score else None

    def _settle(self, thorough: bool) -> Callable[[Module], Module]:
        """Choose between the layouts that the names leave open."""
        from qkvinspect.inspection.evidence import samples_of, weigh_packings

        few = self._few(self._affordable())
        first = self.modules[0].match
        ids = [c.layout.id for c in first.candidates if c.weights == self._attention.weights]
        if len(ids) < len(first.candidates) or len(set(ids)) < len(ids):
            return lambda module: module
        said = [fact.num_heads for fact in self.facts(first.candidates[0]) if fact.num_heads]
        choices: dict[str, Variants] = {}
        for name in ids:
            choices[name] = few._variants(lambda match, name=name: _layout(match, name), said[:1] or self._counts())
        usable = next((variants for variants in choices.values() if variants), None)
        samples = samples_of(next(iter(usable.values()))) if usable else []
        verdict = weigh_packings(choices, samples) if samples else None
        if verdict is None or not verdict.decided:
            return lambda module: module

        def settled(module: Module) -> Module:
            chosen = next(c for c in module.match.candidates if c.layout.id == verdict.best.label)
            match = Match((chosen,), DecidedBy.WEIGHTS)
            cut, found = split(unsplit(match), chosen, self.names, self.facts(chosen))
            return Module(match, replace(cut, evidence=Evidence(None, verdict)), tuple(found))

        again = _WeighedTogether([settled(module) for module in self.modules], self.names, self.facts).answer(thorough)
        return lambda module: again(settled(module))

    def _told(self, module: Module, evidence: Evidence) -> Module:
        attention = module.attention
        assert attention is not None
        found = list(module.findings)
        against = [replace(finding, layer=attention.layer) for finding in self._against(evidence)]
        heads, packings = evidence.heads, evidence.packings
        as_declared = packings is None or (
            attention.layout is not None and packings.best.label == rivals.describe(attention.layout)
        )
        if attention.heads is None and heads is not None and heads.decided and as_declared and not against:
            candidate = module.match.candidates[0]
            fact = HeadFact("weights", heads.best.num_heads, said_by=SaidBy.WEIGHTS)
            attention, found = split(unsplit(module.match), candidate, self.names, [fact])
            against = list(about_evidence(attention, evidence, ""))
        return Module(module.match, replace(attention, evidence=evidence), (*found, *against))

    def _counts(self) -> list[int]:
        """The numbers of heads worth weighing."""
        possible = self._attention.possible_heads
        if not possible:
            rows = max(module.match.candidates[0].shapes[0][0] for module in self.modules)
            possible = tuple(n for n in range(2, min(rows, _MOST_HEADS) + 1) if rows % n == 0)
        return [n for n in possible if n > 1]

    def _variants(self, layout: Callable[[Match], Layout], counts: Sequence[int]) -> Variants:
        """For each number of heads that fits, the layers cut into that many."""
        found: dict[int, list[Attention]] = {}
        for count in counts:
            try:
                cut = [self._cut(module.match, layout(module.match), count) for module in self.modules]
            except LayoutError:
                continue
            if all(a.heads is not None and a.heads.num_heads == count and _thick(a) for a in cut):
                found[count] = cut
        return found

    def _cut(self, match: Match, layout: Layout, count: int) -> Attention:
        known = self._attention.heads
        kv_heads = known.num_kv_heads if known is not None and known.num_heads == count else None
        candidate = replace(match.candidates[0], layout=layout)
        fact = HeadFact("weights", count, kv_heads, said_by=SaidBy.WEIGHTS)
        return split(unsplit(match), candidate, self.names, [fact])[0]


def _cut_from(own: Variants, packing: Packing) -> Variants:
    """The same numbers of heads, of parts that were cut from one tensor as if it held them in blocks."""
    found: dict[int, Sequence[Attention]] = {}
    for heads, attentions in own.items():
        try:
            found[heads] = [rivals.cut_from(attention, packing) for attention in attentions]
        except LayoutError:
            continue
    return found


def _contradicts(finding: Finding) -> bool:
    return finding.code in AGAINST_WEIGHTS


def _promising(evidence: Evidence) -> bool:
    """Whether more layers may settle what these do not: the score grows with them, the noise with their root."""
    heads = evidence.heads
    return heads is not None and not heads.decided and heads.best.score > heads.noise / _STRETCH


def _layout(match: Match, id: str) -> Layout:
    return next(candidate.layout for candidate in match.candidates if candidate.layout.id == id)


def _thick(attention: Attention) -> bool:
    """Whether every head has rows to compare."""
    return all(len(run) > 1 for part in attention.parts for run in part.heads[:1])
