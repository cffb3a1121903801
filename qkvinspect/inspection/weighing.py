"""Infer heads and layout from the weights where nothing else tells them; check known ones against the weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence

from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection import alternatives
from qkvinspect.inspection.asking import GLANCE, STRETCH, affordable, glimpsed, weigh
from qkvinspect.inspection.candidates import DecidedBy, Match
from qkvinspect.inspection.contradictions import contradicts, divided, outvoted
from qkvinspect.inspection.each_alone import differing, glances
from qkvinspect.inspection.facts.fact import HeadFact, SaidBy
from qkvinspect.inspection.hypotheses import Hypotheses
from qkvinspect.inspection.kept_samples import keeping_samples
from qkvinspect.inspection.module import Facts, Module
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.notices import about_evidence, said_of_none
from qkvinspect.inspection.pairing import with_pairing
from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.settling import settle, unsettled
from qkvinspect.inspection.split import split, unsplit
from qkvinspect.inspection.stacks import (
    finer,
    form_of,
    one_after_another,
    stack_of,
    with_number_of_others,
    without_values,
)
from qkvinspect.inspection.tied_heads import are_tied
from qkvinspect.inspection.untouched import untouched
from qkvinspect.inspection.verdict import Evidence
from qkvinspect.layouts import Layout
from qkvinspect.layouts.packing import SHARED

_MOST_OF = 8
"""One layer of so many may have the look of other heads than the others of its stack."""
_GLIMPSED = (4, 8)
"""Layers of which small samples are taken first, and of how many where these do not settle it."""

_LOOKED = 3
"""Layers that are looked at to see whether a stack was trained at all."""


def ask(
    modules: Sequence[Module],
    wanted: Callable[[Match], bool],
    names: Names,
    facts: Facts,
    *,
    thorough: bool,
    each: bool = False,
) -> list[Module]:
    """Weigh the open questions, and check the known answers against the weights.

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
    with keeping_samples():
        return _asked(modules, wanted, names, facts, thorough=thorough, each=each)


def _asked(
    modules: Sequence[Module],
    wanted: Callable[[Match], bool],
    names: Names,
    facts: Facts,
    *,
    thorough: bool,
    each: bool,
) -> list[Module]:
    stacks: dict[object, list[Module]] = {}
    for module in modules:
        if module.attention is not None and not without_values(module.attention):
            stacks.setdefault(stack_of(module.attention), []).append(module)
    told: dict[int, Module] = {}
    of_others = with_number_of_others([first.attention for first, *_ in stacks.values() if first.attention is not None])
    for key, stack in stacks.items():
        chosen = [module for module in stack if wanted(module.match)]
        if chosen and not are_tied(names, _name(stack[0])):
            answer = _WeighedTogether(stack, names, facts, key in of_others).answer(thorough)
            answers = [answer(module) for module in chosen]
            if each and len(stack) > 1:
                answers = _each_alone(answers, names, facts)
            told |= {id(module): one for module, one in zip(chosen, answers, strict=True)}
    return [told.get(id(module), module) for module in modules if wanted(module.match)]


def _each_alone(modules: Sequence[Module], names: Names, facts: Facts) -> list[Module]:
    """The modules of a stack, with what the weights of each alone have against what is said of all, if nothing has."""
    alike: dict[Hashable, list[Module]] = {}
    for module in modules:
        attention = module.attention
        if attention is None or attention.heads is None or any(map(contradicts, module.findings)):
            continue
        if not untouched(module.match.candidates[0].weights):
            alike.setdefault(form_of(attention), []).append(module)
    against = {layer: found for some in alike.values() for layer, found in _WeighedTogether(some, names, facts).alone()}
    return [replace(one, findings=(*one.findings, *against.get(_name(one), ()))) for one in modules]


def _nothing_said(module: Module) -> Module:
    """The module whose weights were asked and say nothing."""
    assert module.attention is not None
    return replace(module, attention=replace(module.attention, evidence=Evidence(None)))


@dataclass(frozen=True, slots=True)
class _WeighedTogether:
    """Layers that are supposed to share their heads and packing: those that are weighed."""

    modules: Sequence[Module]
    names: Names
    facts: Facts
    of_others: bool = False

    def answer(self, thorough: bool) -> Callable[[Module], Module]:
        """Apply the verdict of the stack to one of its layers."""
        layout = self._attention.layout
        if not thorough and all(untouched(module.match.candidates[0].weights) for module in self._few(_LOOKED).modules):
            return _nothing_said if self._attention.heads is None else lambda module: module
        if layout is None:
            return self._settle(thorough)
        known = self._attention.heads
        if known is not None and known.tiled is not None and not thorough:
            glance = weigh(self._few(affordable(self._hypotheses, GLANCE))._hypotheses, layout, glance=True)
            if glance is None or not self._against(glance):
                return lambda module: module
        glimpse = None if thorough or known is not None else self._glimpsed(layout)
        evidence = glimpse or self._weighed(layout, thorough)
        if evidence is None:
            return lambda module: module
        weighed = () if glimpse is not None else evidence.layers
        apart = divided(evidence.heads, evidence.packings)
        against = () if apart else differing(layout, evidence, self._others(weighed))
        if apart or against:
            most = self._of_most(evidence, against, self._others(weighed))
            if most is None:
                return self._apart(thorough)
            evidence = most
        return lambda module: self._told(module, evidence)

    def _glimpsed(self, layout: Layout) -> Evidence | None:
        """What small samples say of a few layers, or of some more; None where neither settle everything."""
        few = dict.fromkeys(min(count, len(self.modules)) for count in _GLIMPSED)
        return next(filter(None, (glimpsed(self._few(count)._hypotheses, layout) for count in few)), None)

    def _weighed(self, layout: Layout, thorough: bool) -> Evidence | None:
        """What some of the layers say, or more of them where that may settle it."""
        count = affordable(self._hypotheses)
        few, more = (self._few(some)._hypotheses for some in (max(count, 2), STRETCH * count))
        return weigh(few, layout, thorough=thorough, further=more)

    def _of_most(self, evidence: Evidence, against: Sequence[str], others: Iterable[Hypotheses]) -> Evidence | None:
        """The evidence with the heads that nearly all layers of one block after the other have; None if there are none.

        Layers that have the same shapes and names but for a number have the same heads. Of some, heads that are alike
        pass for larger ones: of SmolLM2's layers the fourth alone would have 6 heads, and has 9 as all others.

        Args:
            against: those of the other layers that contradict it, if it is a verdict already.
        """
        from qkvinspect.inspection.evidence import SURE

        layout, heads = self._attention.layout, evidence.heads
        if layout is None or heads is None or heads.confidence < SURE or heads.parted or divided(evidence.packings):
            return None
        if not evidence.as_declared or any(len(stack) > 1 for stack in finer(self.modules, _name)):
            return None
        said = replace(evidence, heads=replace(heads, decided=True, apart=()))
        apart = len(heads.apart) + len(against or differing(layout, said, others))
        return said if apart * _MOST_OF <= len(self.modules) else None

    def alone(self) -> Iterator[tuple[str, Iterable[Finding]]]:
        """What the weights of each layer by itself have against its packing or orientation: its heads are known."""
        layout, heads = self._attention.layout, self._attention.heads
        assert layout is not None
        assert heads is not None
        every = {_name(module): replace(self, modules=[module]) for module in self.modules}
        for layer, glance in glances(layout, heads.num_heads, [one._hypotheses for one in every.values()]):
            one = every[layer]
            if any(map(contradicts, one._against(glance))) and (evidence := weigh(one._hypotheses, layout)) is not None:
                yield layer, filter(contradicts, one._against(evidence))

    @property
    def _attention(self) -> Attention:
        found = self.modules[0].attention
        assert found is not None
        return found

    @property
    def _hypotheses(self) -> Hypotheses:
        return Hypotheses([module.match for module in self.modules], self._attention, self.names)

    def _few(self, count: int) -> _WeighedTogether:
        """At most so many of the layers, spread over the stack."""
        count = min(count, len(self.modules))
        return replace(self, modules=[self.modules[i * len(self.modules) // count] for i in range(count)])

    def _against(self, evidence: Evidence) -> list[Finding]:
        layout = self._attention.layout
        packing = alternatives.describe(layout) if layout else ""
        return list(about_evidence(self._attention, evidence, packing, of_others=self.of_others))

    def _others(self, weighed: Collection[str]) -> Iterator[Hypotheses]:
        """Each of the layers that were not weighed yet."""
        return (replace(self, modules=[one])._hypotheses for one in self.modules if _name(one) not in weighed)

    def _apart(self, thorough: bool) -> Callable[[Module], Module]:
        """Weigh smaller stacks where layers of this one contradict each other, or in the end each layer alone."""
        answers: dict[str, Callable[[Module], Module]] = {}
        for stack in finer(self.modules, _name):
            answer = replace(self, modules=stack).answer(thorough)
            answers |= {_name(module): answer for module in stack}
        if self._attention.heads is None or not one_after_another(map(_name, self.modules)):
            return lambda module: answers[_name(module)](module)
        told = [answers[_name(module)](module) for module in self.modules]
        left = outvoted([one.findings for one in told])
        found = {_name(one): replace(one, findings=findings) for one, findings in zip(told, left, strict=True)}
        return lambda module: found[_name(module)]

    def _settle(self, thorough: bool) -> Callable[[Module], Module]:
        """Choose between the layouts that the names leave open."""
        first = self.modules[0].match
        ids = [c.layout.id for c in first.candidates if c.weights == self._attention.weights]
        if len(ids) < len(first.candidates) or len(set(ids)) < len(ids):
            return lambda module: module
        if any(not SHARED.keys().isdisjoint(one.packing.order) for c in first.candidates for one in c.layout.weights):
            return lambda module: module  # a projection that is compared with itself fits whatever it is
        said = [fact.num_heads for fact in self.facts(first.candidates[0]) if fact.num_heads and not fact.elsewhere]
        few = self._few(affordable(self._hypotheses))
        verdict = settle(few._hypotheses, ids, said[:1])
        if divided(verdict):
            return self._apart(thorough)
        if verdict is None or not verdict.decided:
            return lambda module: module
        if verdict.best.label not in ids:
            return lambda module: _open(module, Evidence(None, verdict, as_declared=False))
        if any(unsettled(other, ids, verdict) for other in self._others([_name(one) for one in few.modules])):
            return self._apart(thorough)

        def settled(module: Module) -> Module:
            chosen = next(c for c in module.match.candidates if c.layout.id == verdict.best.label)
            match = Match((chosen,), DecidedBy.WEIGHTS)
            cut, found = split(unsplit(match), chosen, self.names, self.facts(chosen))
            return Module(match, replace(cut, evidence=Evidence(None, verdict)), tuple(found))

        if (other := self._unnamed(few, settled)) is not None:
            return lambda module: _open(module, other)
        again = _WeighedTogether([settled(module) for module in self.modules], self.names, self.facts).answer(thorough)
        return lambda module: again(settled(module))

    def _unnamed(self, few: _WeighedTogether, settled: Callable[[Module], Module]) -> Evidence | None:
        """What the weights say where they speak for a packing that no candidate has; None where they do not.

        The order of the parts in a pattern's candidates is that of its name, which no library stands behind. Where
        each part has a tensor, the names say which is which.
        """
        chosen = replace(few, modules=[settled(module) for module in few.modules])
        layout = chosen._attention.layout
        if layout is None or layout.found_by != "pattern":
            return None
        if all(len(stored.packing.order) == 1 for stored in layout.weights):
            return None
        said = weigh(chosen._hypotheses, layout)
        if said is None or said.packings is None or (said.packings.decided and said.as_declared):
            return None
        return Evidence(None, said.packings, as_declared=False)

    def _told(self, module: Module, evidence: Evidence) -> Module:
        attention = module.attention
        assert attention is not None
        found = list(module.findings)
        against = [replace(finding, layer=attention.layer) for finding in self._against(evidence)]
        heads = evidence.heads
        if attention.heads is None and heads is not None and heads.decided and evidence.as_declared and not against:
            candidate = module.match.candidates[0]
            fact = HeadFact("weights", heads.best.num_heads, said_by=SaidBy.WEIGHTS)
            before = attention.weighed_facts
            attention, found = split(unsplit(module.match), candidate, self.names, [fact])
            attention = with_pairing(replace(attention, weighed_facts=(*before, *attention.weighed_facts)), heads)
            against = list(about_evidence(attention, evidence, ""))
        attention = with_pairing(attention, heads)
        return Module(module.match, replace(attention, evidence=evidence), (*found, *against))


def _open(module: Module, said: Evidence) -> Module:
    """A module whose weights speak for none of its candidates, with what they say instead."""
    attention = module.attention
    assert attention is not None
    findings = module.findings
    if said.packings is not None and said.packings.decided:
        equal = module.match.candidates[0].layout.kv_heads == "equal"
        told = said_of_none(said.packings, equal=equal)
        findings = tuple(
            replace(one, message=f"{one.message}; {told}") if one.code is FindingCode.AMBIGUOUS_LAYOUT else one
            for one in findings
        )
    return replace(module, attention=replace(attention, evidence=said), findings=findings)


def _name(module: Module) -> str:
    assert module.attention is not None
    return module.attention.layer
