"""The result of checking one path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qkvinspect.finding_codes import Severity
from qkvinspect.findings import Finding

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Checked:
    """One checkpoint.

    Attributes:
        num_attentions: how many attention modules were checked.
        error: why it could not be read, or ""; then there are no findings.
    """

    path: str
    findings: tuple[Finding, ...] = ()
    num_attentions: int = 0
    error: str = ""


def totals(checked: Iterable[Checked]) -> Mapping[Severity, int]:
    """How many findings there are of each severity."""
    counts: dict[Severity, int] = {"error": 0, "warning": 0, "info": 0}
    for one in checked:
        for finding in one.findings:
            counts[finding.severity] += 1
    return counts


def to_dict(checked: Sequence[Checked]) -> dict[str, object]:
    """The JSON contract: see check.schema.json."""
    counts = totals(checked)
    return {
        "schema_version": SCHEMA_VERSION,
        "checkpoints": [
            {
                "path": one.path,
                "error": one.error or None,
                "num_attentions": one.num_attentions,
                "findings": [finding.to_dict() for finding in one.findings],
            }
            for one in checked
        ],
        "summary": {
            "checkpoints": len(checked),
            "unreadable": sum(bool(one.error) for one in checked),
            "errors": counts["error"],
            "warnings": counts["warning"],
            "infos": counts["info"],
        },
    }
