"""What a page shows of one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from qkvinspect.analysis import LayerFigures
from qkvinspect.findings import Finding
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.render.evidence import Stack, stacks

_MOST_STACKS = 12


@dataclass(frozen=True)
class PageSide:
    """One checkpoint.

    Attributes:
        label: "A" or "B" where there are two; else "".
        findings: of inspection and of the checks.
        figures: of every layer; empty where nothing was analysed.
        digests: (name, SHA-256) of the files that it was read from; empty where that was not asked for.
    """

    label: str
    report: Report
    findings: tuple[Finding, ...]
    figures: tuple[LayerFigures, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()

    @cached_property
    def attentions(self) -> Mapping[str, Attention]:
        return {one.layer: one for one in self.report.attentions}

    @cached_property
    def by_layer(self) -> Mapping[str, LayerFigures]:
        return {one.layer: one for one in self.figures}


def shown_stacks(side: PageSide) -> tuple[list[Stack], int]:
    """The stacks whose evidence is shown, and how many are left out."""
    found = stacks(side.report.attentions)
    return found[:_MOST_STACKS], max(len(found) - _MOST_STACKS, 0)
