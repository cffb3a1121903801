"""Layers whose weights contradict what is known of them, or each other."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import AGAINST_WEIGHTS, Finding
from qkvinspect.inspection.verdict import Verdict

Findings = tuple[Finding, ...]


def contradicts(finding: Finding) -> bool:
    """Whether it says that the weights speak against what is known."""
    return finding.code in AGAINST_WEIGHTS


def divided(*verdicts: Verdict | None) -> bool:
    """Whether the layers that were weighed contradict each other."""
    return any(verdict is not None and verdict.apart for verdict in verdicts)


def outvoted(layers: Sequence[Findings]) -> list[Findings]:
    """The findings of layers that follow one another, without what few of them have against the heads they all have.

    Heads that are alike pass for larger ones in one layer of many, where those of the others are seen for what they
    are. Only what most layers say is said against a source that speaks of all of them.
    """
    denying = [any(map(_denies_heads, findings)) for findings in layers]
    if 2 * sum(denying) > len(layers):
        return list(layers)
    return [tuple(one for one in findings if not _denies_heads(one)) for findings in layers]


def _denies_heads(finding: Finding) -> bool:
    return finding.code == FindingCode.HEADS_AGAINST_WEIGHTS
