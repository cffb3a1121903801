"""What is known of a checkpoint that is being browsed, and the reading that makes it more. Knows no terminal."""

from __future__ import annotations

import glob
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qkvinspect.analysis import Column, LayerFigures, analyze
from qkvinspect.analysis.grid import NORMS, Grid, grid, norms
from qkvinspect.findings import Finding
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.measure import measured
from qkvinspect.inspection.notices import about_numbers
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.progress import Progress

Keep = Callable[[], None]
"""Puts what was read where others see it."""


@dataclass(frozen=True, slots=True)
class ReadingJob:
    """One thing to read, of some layers by their place in the report."""

    what: Literal["norms", "figures", "evidence"]
    layers: tuple[int, ...]


def layouts(attention: Attention) -> tuple[str, ...]:
    """The id of its layout, or of all that it may be; what is known where there is none."""
    return (attention.layout.id,) if attention.layout else attention.candidates or (attention.may_be,)


class Session:
    """The layers of a report that was made without reading a weight.

    Attributes:
        attentions: as the report has them, with norms and evidence as these become known.
        figures: of the layers that were analysed.
        measured: the layers whose norms are known.
        others: findings about the file, and about what is no layer of the report.
    """

    def __init__(self, report: Report, options: Options) -> None:
        self.report = report
        self.attentions: list[Attention] = list(report.attentions)
        self.figures: dict[int, LayerFigures] = {}
        self.measured: set[int] = set()
        self._options = options
        known = {attention.layer for attention in report.attentions}
        self.others = [finding for finding in report.findings if finding.layer not in known]
        self._findings = {
            number: [finding for finding in report.findings if finding.layer == attention.layer]
            for number, attention in enumerate(report.attentions)
        }

    def read(self, job: ReadingJob, progress: Progress) -> Keep:
        """Read what a job asks for; may run in any thread. Nothing changes until the result is called.

        Raises:
            CheckpointError: the bytes cannot be read, or the file is not the one that was opened.
        """
        work = {"norms": self._norms, "figures": self._analysis, "evidence": self._evidence}
        keep = work[job.what](job.layers, progress)
        self.report.checkpoint.check()
        return keep

    def findings(self, number: int) -> list[Finding]:
        """Of one layer."""
        numbers = about_numbers(self.attentions[number]) if number in self.measured else ()
        return [*self._findings[number], *numbers]

    def matching(self, words: str) -> list[int]:
        """Layers whose name or layout holds each of the words, whatever their case."""
        wanted = words.casefold().split()
        return [
            number
            for number, attention in enumerate(self.attentions)
            if all(word in f"{attention.layer} {' '.join(layouts(attention))}".casefold() for word in wanted)
        ]

    def grid(self, column: Column, layers: Sequence[int]) -> Grid:
        """A figure of some layers; rows of what has not been read are empty."""
        if column.key in NORMS:
            return norms(
                replace(self.report, attentions=tuple(self.attentions[number] for number in layers)), column.key
            )
        unknown = (LayerFigures(self.attentions[number].layer) for number in layers)
        return grid(column, (self.figures.get(number, none) for number, none in zip(layers, unknown, strict=True)))

    def _norms(self, layers: Sequence[int], progress: Progress) -> Keep:
        found = list(measured(deque(self.attentions[number] for number in layers), progress))

        def keep() -> None:
            for number, attention in zip(layers, found, strict=True):
                self.attentions[number] = attention
            self.measured.update(layers)

        return keep

    def _analysis(self, layers: Sequence[int], progress: Progress) -> Keep:
        found = list(analyze(self.report, [self.attentions[number] for number in layers], progress))
        return lambda: self.figures.update(zip(layers, found, strict=True))

    def _evidence(self, layers: Sequence[int], _: Progress) -> Keep:
        names = {self.attentions[number].layer: number for number in layers}
        wanted = map(glob.escape, names)
        options = replace(self._options, layers=tuple(wanted), norms=False, evidence="thorough")
        found = inspect(self.report.checkpoint, options)

        def keep() -> None:
            for attention in found.attentions:
                number = names.get(attention.layer)
                if number is not None:
                    self._take_over_evidence(number, attention)
                    self._findings[number] = [one for one in found.findings if one.layer == attention.layer]

        return keep

    def _take_over_evidence(self, number: int, attention: Attention) -> None:
        """Keep the evidence; if it changed the heads or the layout, drop what was computed with the old ones."""
        known = self.attentions[number]
        if (attention.heads, attention.layout) == (known.heads, known.layout):
            self.attentions[number] = replace(known, evidence=attention.evidence)
        else:
            self.attentions[number] = attention
            self.measured.discard(number)
            self.figures.pop(number, None)
