"""The evidence from the weights as text: every hypothesis with its score, and a picture of where heads end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.verdict import Evidence, Verdict, Weighed
from qkvinspect.render import text
from qkvinspect.render.document import Block, CodeBlock, Glossed, Items
from qkvinspect.render.text import confidence

_BAR = 40
_MOST = 12

NOTHING = "no values that could be compared, random codes for values, or zeros in blocks"


@dataclass(frozen=True, slots=True)
class Point:
    """One question that the weights were asked.

    Attributes:
        title: what it is about.
        below: what it is about where all stand below a heading that says evidence.
        text: the answer.
        what: what was weighed; "" where that is in the text.
        weighed: (hypothesis, score, what to know of it), the first few.
        others: how many more there are.
    """

    title: str
    text: str
    what: str = ""
    weighed: tuple[tuple[str, float, str], ...] = ()
    others: int = 0
    below: str = ""


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers that were weighed together.

    Attributes:
        layers: their names, harmless.
        width: rows of a head; 0 where that is not known.
    """

    layers: tuple[str, ...]
    evidence: Evidence
    width: int

    @property
    def named(self) -> str:
        """All of them, in a few words."""
        first, last = self.layers[0], self.layers[-1]
        return first if first == last else f"{text.count(len(self.layers), 'layer')}: {first} to {last}"


def blocks(attention: Attention) -> Iterator[Block]:
    """The evidence of one layer's stack."""
    evidence = attention.evidence
    if evidence is None:
        unsettled = f"its layout is open, and {' and '.join(attention.candidates)} cannot be weighed against each other"
        none = (
            unsettled if attention.layout is None and len(attention.candidates) > 1 else f"these weights have {NOTHING}"
        )
        yield Items((Glossed("Evidence", f"none: {none}."),))
        return
    for point in points(evidence):
        yield Items((Glossed(point.title, point.text),))
        if point.weighed:
            yield CodeBlock(tuple(_table(point)))
    if evidence.profile:
        yield CodeBlock(tuple(_picture(evidence, _width(attention))))


def stacks(attentions: Sequence[Attention]) -> list[Stack]:
    """The evidence of all layers, once for each stack."""
    found: dict[tuple[Evidence, int], list[str]] = {}
    for one in attentions:
        if one.evidence is not None:
            found.setdefault((one.evidence, _width(one)), []).append(text.layer(one.layer))
    return [Stack(tuple(layers), evidence, width) for (evidence, width), layers in found.items()]


def points(evidence: Evidence) -> Iterator[Point]:
    """Every question that was asked, with its answer."""
    if evidence.heads is not None:
        labels = [str(one.num_heads) for one in evidence.heads.weighed]
        yield Point("Evidence", _heads(evidence.heads), "heads", *_weighed(labels, evidence.heads), "Heads")
    if evidence.packings is not None:
        labels = [f"{one.label}, {one.num_heads} heads" for one in evidence.packings.weighed]
        yield Point("Packing", _packing(evidence.packings), "packing", *_weighed(labels, evidence.packings))
    if evidence.turned is not None:
        yield Point("Lies", f"{evidence.turned.best.num_heads} heads stand out only if the weights are transposed.")
    if evidence.turns is not None:
        yield Point("Rotary", _turns(evidence.turns))


def _width(attention: Attention) -> int:
    return attention.heads.width("v") if attention.heads else 0


def _heads(verdict: Verdict) -> str:
    layers = f"{len(verdict.layers)} layer{'s' if len(verdict.layers) > 1 else ''} of this stack weighed"
    best = verdict.best
    if verdict.decided:
        return f"the weights say {best.num_heads} heads ({confidence(verdict.confidence)} sure; {layers})."
    if verdict.apart:
        others = ", ".join(f"{text.layer(layer)} for {own.num_heads} heads" for layer, own in verdict.apart[:3])
        return f"layers of this stack contradict each other: {others}, and not for {best.num_heads} ({layers})."
    if verdict.parted is not None:
        either = f"{best.num_heads}, or {verdict.parted} of which neighbours are alike"
        return f"the weights do not tell the number of heads: {either} ({layers})."
    reach = f"the best score is {best.score:.0f}, and noise reaches {verdict.noise:.0f}"
    return f"the weights do not tell the number of heads: {reach} ({layers})."


def _packing(verdict: Verdict) -> str:
    symmetric = "Q and K may be swapped: attention uses only their product."
    if verdict.decided:
        return f"the weights say {verdict.best.label} ({confidence(verdict.confidence)} sure). {symmetric}"
    return f"the weights do not tell the packing. {symmetric}"


def _turns(verdict: Verdict) -> str:
    scores = "; ".join(f"{one.label}: {one.score:.0f}" for one in verdict.weighed[:3])
    if not verdict.decided:
        return f"no rotary pairs stand out ({scores}; {verdict.noise:.0f} is needed)."
    meaning = "rotate-half" if verdict.best.turn == "halves" else "interleaved"
    return f"rows are turned in pairs as {verdict.best.label}: {meaning} ({scores})."


def _weighed(labels: Sequence[str], verdict: Verdict) -> tuple[tuple[tuple[str, float, str], ...], int]:
    shown = [(label, one.score, _note(one)) for label, one in zip(labels, verdict.weighed, strict=True)][:_MOST]
    return tuple(shown), len(labels) - len(shown)


def _note(one: Weighed) -> str:
    return f"any {one.num_heads} groups of {one.explained_by} heads do as well" if one.explained_by else ""


def _table(point: Point) -> Iterator[str]:
    across = max(len(point.what), *(len(label) for label, _, _ in point.weighed))
    yield f"{point.what:{across}}  {'score':>10}"
    for label, score, note in point.weighed:
        yield f"{label:{across}}  {score:10.0f}  {note}".rstrip()
    if point.others:
        yield f"... and {point.others} more"


def _picture(evidence: Evidence, width: int) -> Iterator[str]:
    top = max(tie for _, tie in evidence.profile)
    across = len(str(evidence.profile[-1][0]))
    yield "rows apart: how strongly two rows are tied (a head's rows are, others' are not)"
    for distance, tie in evidence.profile:
        bar = "#" * round(_BAR * tie / top) if top > 0 else ""
        yield f"{distance:>{across}} |{bar}".rstrip()
    if width:
        yield f"with {width} rows a head, the last pair of a head is {width - 1} apart"
