"""What the weights say, as text: every hypothesis with its score, and a picture of where heads end."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.render import prose
from qkvinspect.render.text import confidence
from qkvinspect.report import Attention, Evidence, Verdict

_BAR = 40
_MOST = 12


def render(attention: Attention, width: int | None) -> str:
    """The evidence of one layer's stack; empty lines for none are left out."""
    evidence = attention.evidence
    if evidence is None:
        return prose.point("Evidence", "none: these weights have no values that could be compared.", width) + "\n"
    return "\n".join(_lines(attention, evidence, width)) + "\n"


def _lines(attention: Attention, evidence: Evidence, width: int | None) -> Iterator[str]:
    if evidence.heads is not None:
        yield prose.point("Evidence", _heads(attention, evidence.heads), width)
        yield from _table("heads", [str(one.num_heads) for one in evidence.heads.weighed], evidence.heads)
    if evidence.packings is not None:
        yield prose.point("Packing", _packing(evidence.packings), width)
        labels = [f"{one.label}, {one.num_heads} heads" for one in evidence.packings.weighed]
        yield from _table("packing", labels, evidence.packings)
    if evidence.turned is not None:
        text = f"{evidence.turned.best.num_heads} heads stand out only if the weights are transposed."
        yield prose.point("Lies", text, width)
    if evidence.turns is not None:
        yield prose.point("Rotary", _turns(evidence.turns), width)
    yield from _picture(attention, evidence)


def _heads(attention: Attention, verdict: Verdict) -> str:
    layers = f"{len(verdict.layers)} layer{'s' if len(verdict.layers) > 1 else ''} of this stack weighed"
    best = verdict.best
    if verdict.decided:
        return f"the weights say {best.num_heads} heads ({confidence(verdict.confidence)} sure; {layers})."
    reach = f"the best score is {best.score:.0f}, and noise reaches {verdict.noise:.0f}"
    return f"the weights do not tell the number of heads: {reach} ({layers})."


def _packing(verdict: Verdict) -> str:
    symmetric = "Which of Q and K is which cannot be told: attention uses only their product."
    if verdict.decided:
        return f"the weights say {verdict.best.label} ({confidence(verdict.confidence)} sure). {symmetric}"
    return f"the weights do not tell the packing. {symmetric}"


def _turns(verdict: Verdict) -> str:
    scores = "; ".join(f"{one.label}: {one.score:.0f}" for one in verdict.weighed[:3])
    if not verdict.decided:
        return f"no rotary pairs stand out ({scores}; {verdict.noise:.0f} is needed)."
    meaning = "rotate-half" if verdict.best.label.startswith("halves") else "interleaved"
    return f"rows are turned in pairs as {verdict.best.label}: {meaning} ({scores})."


def _table(title: str, labels: list[str], verdict: Verdict) -> Iterator[str]:
    shown = list(zip(labels, verdict.weighed, strict=True))[:_MOST]
    across = max(len(title), *(len(label) for label, _ in shown))
    yield f"    {title:{across}}  {'score':>10}"
    for label, one in shown:
        note = f"  any {one.num_heads} groups of {one.explained_by} heads do as well" if one.explained_by else ""
        yield f"    {label:{across}}  {one.score:10.0f}{note}"
    if len(labels) > len(shown):
        yield f"    ... and {len(labels) - len(shown)} more"


def _picture(attention: Attention, evidence: Evidence) -> Iterator[str]:
    if not evidence.profile:
        return
    top = max(tie for _, tie in evidence.profile)
    across = len(str(evidence.profile[-1][0]))
    sizes = attention.geometry
    width = sizes.width("v") if sizes and attention.heads else 0
    yield "    rows apart: how strongly two rows are tied (a head's rows are, others' are not)"
    for distance, tie in evidence.profile:
        bar = "#" * round(_BAR * tie / top) if top > 0 else ""
        yield f"    {distance:>{across}} |{bar}".rstrip()
    if width:
        yield f"    with {width} rows a head, the last pair of a head is {width - 1} apart"
