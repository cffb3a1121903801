"""When the answer of a stack is withdrawn, as its layers alone speak against it."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.verdict import Verdict

APART = 0.9
"""The confidence of a single layer in another answer from which the stack's answer is withdrawn."""

LEAN = 8.0
"""By how much layers that are sure of nothing may together prefer another answer to that of their stack."""


def unless_apart(verdict: Verdict, alone: Sequence[Verdict]) -> Verdict:
    """Withdraw the verdict where one layer alone contradicts it, or where the unsure ones together prefer another."""
    apart = [own for own in alone if _sure(own) and not _agree(own, verdict)]
    apart += _leaning([own for own in alone if not _sure(own)], verdict)
    if not apart:
        return verdict
    return replace(verdict, decided=False, apart=tuple((own.layers[0], own.best) for own in apart))


def _sure(own: Verdict) -> bool:
    return own.confidence > APART or own.parted is not None


def _agree(own: Verdict, said: Verdict) -> bool:
    """Whether both have the same answer; heads that fall into parts agree with a larger number of heads only."""
    if own.parted is None:
        return own.best.agrees(said.best)
    return own.best.num_heads < said.best.num_heads and said.best.num_heads % own.best.num_heads == 0


def _leaning(unsure: Sequence[Verdict], said: Verdict) -> Sequence[Verdict]:
    """Layers of which none is sure but which together prefer another number of heads."""
    if said.best.label:
        return ()
    totals: dict[str | int, float] = {}
    for own in unsure:
        for one in own.weighed:
            totals[one.answer] = totals.get(one.answer, 0.0) + one.score
    return unsure if totals and max(totals.values()) - totals.get(said.best.answer, 0.0) > LEAN else ()
