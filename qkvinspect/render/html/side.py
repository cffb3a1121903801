"""What a page shows of one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from qkvinspect.analysis import LayerFigures
from qkvinspect.model import Finding
from qkvinspect.report import Attention, Report


@dataclass(frozen=True)
class Side:
    """One checkpoint.

    Attributes:
        label: "A" or "B" where there are two; else "".
        findings: of inspection and of the checks.
        figures: of every layer; empty where nothing was analysed.
    """

    label: str
    report: Report
    findings: tuple[Finding, ...]
    figures: tuple[LayerFigures, ...] = ()

    @cached_property
    def attentions(self) -> Mapping[str, Attention]:
        return {one.layer: one for one in self.report.attentions}

    @cached_property
    def by_layer(self) -> Mapping[str, LayerFigures]:
        return {one.layer: one for one in self.figures}
