"""An attention module on its way into the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.findings import Finding
from qkvinspect.inspection.candidates import Candidate, Match
from qkvinspect.inspection.facts.fact import HeadFact
from qkvinspect.inspection.report import Attention

Facts = Callable[[Candidate], Sequence[HeadFact]]
"""Gives the facts about a layer's heads from other sources than its weights."""


@dataclass(frozen=True, slots=True)
class Module:
    """What is known of one so far.

    Attributes:
        attention: None where its shapes contradict its layout.
    """

    match: Match
    attention: Attention | None
    findings: tuple[Finding, ...]
