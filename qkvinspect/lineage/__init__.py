"""Where a checkpoint comes from: the kinship of two or more, by the circuits of their heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from qkvinspect.findings import Finding
from qkvinspect.inspection.report import Report
from qkvinspect.lineage.kinship import Kinship, Verdict, label
from qkvinspect.lineage.pairwise import kinship
from qkvinspect.lineage.relatives import comparable, nbytes, read_once
from qkvinspect.lineage.tree import Join, joins, with_others
from qkvinspect.progress import Progress, counter

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Lineage:
    """What several checkpoints are to each other.

    Attributes:
        reports: in the order in which they were named.
        left_out: of each the layers that were not compared, with the reason.
        kinships: of any two.
        joins: what joins those that are kin.
        base: whether the first was given as the parent of the others.
    """

    reports: tuple[Report, ...]
    left_out: tuple[tuple[tuple[str, str], ...], ...]
    kinships: tuple[Kinship, ...]
    joins: tuple[Join, ...]
    base: bool = False

    def answers(self, expected: Verdict) -> bool:
        """Whether all others are to the first what was expected: to the first after the base, where two were named."""
        first = int(self.base and len(self.reports) > 2)
        return all(one.answers(expected) for one in self.kinships if one.a == first)

    def findings(self) -> Sequence[tuple[int, Finding]]:
        """What inspection has to say of each, but for what is merely to be known."""
        every = enumerate(self.reports)
        return [(place, one) for place, report in every for one in report.findings if one.severity != "info"]

    def to_dict(self) -> dict[str, object]:
        """The JSON contract: see lineage.schema.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "checkpoints": [
                {
                    "path": report.checkpoint.path,
                    "format": report.checkpoint.format,
                    "container": report.checkpoint.container,
                    "left_out": [{"layer": layer, "why": why} for layer, why in left],
                }
                for report, left in zip(self.reports, self.left_out, strict=True)
            ],
            "base": 0 if self.base else None,
            "pairs": [one.to_dict() for one in self.kinships],
            "tree": [one.to_dict() for one in self.joins],
        }


def lineage(reports: Sequence[Report], progress: Progress | None = None, *, base: bool = False) -> Lineage:
    """Compare any two of some checkpoints, which must still be open; a layer of each is in memory at a time.

    Args:
        base: whether the first is known to be the parent of those that are its kin.

    Raises:
        CheckpointError: the bytes cannot be read.
        UsageError: scipy, which pairs heads, is not installed.
    """
    layers = [comparable(report) for report in reports]
    advance = counter(len(reports) * sum(nbytes(layer) for kept, _ in layers for layer in kept), progress)
    members = [read_once(report, *found, advance) for report, found in zip(reports, layers, strict=True)]
    every = [kinship((i, j), members[i], members[j], advance) for i, j in combinations(range(len(reports)), 2)]
    names = [label(place) for place in range(len(reports))]
    return Lineage(
        tuple(reports),
        tuple(one.left_out for one in members),
        with_others(names, every, 0 if base else None),
        joins(len(reports), every),
        base,
    )
