"""Checks of a checkpoint before it is released: each in ``faults``, run and judged here as a policy wants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from qkvinspect.checks.baseline import Baseline
from qkvinspect.checks.digests import Digests
from qkvinspect.checks.faults import CHECKS, Check
from qkvinspect.checks.policy import Policy, parse
from qkvinspect.checks.subject import Subject
from qkvinspect.finding_codes import SEVERITIES, FindingCode, FindingKind, Severity
from qkvinspect.findings import Finding
from qkvinspect.inspection.report import Report
from qkvinspect.progress import Progress

TOLERANCE = 0.01
_ANY = Policy()


@dataclass(frozen=True, slots=True)
class Rule:
    """What ``check`` can report: the finding of a check, or one that reading the file makes.

    Attributes:
        summary: one sentence.
        details: the rest of its documentation, or "".
    """

    code: FindingKind
    severity: Severity
    summary: str
    details: str = ""


def rules() -> tuple[Rule, ...]:
    """Everything that ``check`` can find, checks first."""
    details = {check.CODE: (check.__doc__ or "").partition("\n\n")[2] for check in CHECKS}
    noticed: list[FindingKind] = sorted(code for code in FindingCode if code not in details)
    return tuple(
        Rule(code, code.in_check, code.summary, " ".join(details.get(code, "").split()))
        for code in (*details, *noticed)
        if code.in_check is not None
    )


def parse_policy(table: Mapping[str, object], origin: str = "") -> Policy:
    """The policy that a table of settings describes.

    Raises:
        UsageError: a key is not known, a value has another form, or no finding of ``check`` has such a code.
    """
    return parse(table, [rule.code for rule in rules()], origin)


def run(
    report: Report,
    wanted: Policy = _ANY,
    *,
    baseline: Baseline | None = None,
    tolerance: float = TOLERANCE,
    progress: Progress | None = None,
    digests: tuple[Digests, ...] = (),
) -> list[Finding]:
    """Check an inspected checkpoint that is still open; the most severe findings come first.

    Args:
        report: with norms and, for the findings that contradict a packing, with evidence.
        tolerance: relative, of norms against the baseline.
        digests: what the files should be.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    chosen = [check for check in CHECKS if _may_fire(check, wanted)]
    subject = Subject(report, wanted.expect, baseline, tolerance, progress, digests)
    # Where a check has the code of a finding that reading makes, the message of the check says more.
    own = {check.CODE for check in CHECKS}
    found = list(_judged((finding for finding in report.findings if finding.code not in own), wanted))
    for check in chosen:
        found += _judged((Finding(check.CODE, message, layer) for layer, message in check.find(subject)), wanted)
    return sorted(found, key=lambda finding: -SEVERITIES.index(finding.severity))


def failing(findings: Iterable[Finding], wanted: Policy) -> bool:
    """Whether any finding is severe enough for the policy to fail."""
    return any(SEVERITIES.index(f.severity) >= SEVERITIES.index(wanted.fail_on) for f in findings)


def _may_fire(check: Check, wanted: Policy) -> bool:
    return wanted.severity_of(check.CODE, None) is not None


def _judged(findings: Iterable[Finding], wanted: Policy) -> Iterator[Finding]:
    """The findings that the policy wants, with the severity that it gives them."""
    for finding in findings:
        severity = wanted.severity_of(finding.code, finding.layer)
        if severity is not None:
            yield replace(finding, severity=severity)
