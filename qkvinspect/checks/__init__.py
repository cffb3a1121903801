"""What a checkpoint is checked for before it is released. A new check is one module here and one line in CHECKS."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Protocol, cast

from qkvinspect.checkpoint import Finding, Severity
from qkvinspect.checks import (
    bias_kv,
    changed,
    constant_part,
    dead_head,
    equal_heads,
    equal_layers,
    equal_parts,
    expected,
    missing_bias,
    missing_layer,
    mixed_dtype,
    no_attention,
    nonfinite,
    norm_outlier,
    odd_layer,
    policy,
    projection_shape,
    rank_collapse,
    zero_head,
    zero_part,
)
from qkvinspect.checks.baseline import Baseline
from qkvinspect.checks.noticed import NOTICED
from qkvinspect.checks.policy import SEVERITIES, Policy
from qkvinspect.checks.subject import Subject, Told
from qkvinspect.inspection.report import Report
from qkvinspect.progress import Progress

TOLERANCE = 0.01
_ANY = Policy()


class Check(Protocol):
    """What every module in CHECKS offers; its docstring is its documentation."""

    CODE: str
    SEVERITY: Severity

    def told(self, subject: Subject) -> Iterator[Told]: ...


CHECKS = cast(
    "tuple[Check, ...]",
    (
        no_attention,
        nonfinite,
        zero_part,
        zero_head,
        constant_part,
        equal_parts,
        equal_heads,
        equal_layers,
        projection_shape,
        odd_layer,
        missing_bias,
        missing_layer,
        norm_outlier,
        dead_head,
        rank_collapse,
        bias_kv,
        mixed_dtype,
        expected,
        changed,
    ),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A check, or something that reading notices by itself.

    Attributes:
        summary: one sentence.
        details: the rest of its documentation, or "".
    """

    code: str
    severity: Severity
    summary: str
    details: str = ""


def rules() -> tuple[Rule, ...]:
    """Everything that ``check`` can find, checks first."""
    found: list[Rule] = []
    for check in CHECKS:
        summary, _, details = (check.__doc__ or "").strip().partition("\n\n")
        found.append(Rule(check.CODE, check.SEVERITY, " ".join(summary.split()), " ".join(details.split())))
    return (*found, *(Rule(code, severity, summary) for code, (severity, summary) in sorted(NOTICED.items())))


def parse_policy(table: Mapping[str, object], origin: str = "") -> Policy:
    """The policy of a ``check`` table of settings.

    Raises:
        UsageError: it holds an unknown key, an odd value or an unknown code.
    """
    return policy.parse(table, origin, {rule.code for rule in rules()})


def run(
    report: Report,
    wanted: Policy = _ANY,
    *,
    baseline: Baseline | None = None,
    tolerance: float = TOLERANCE,
    progress: Progress | None = None,
) -> list[Finding]:
    """Check an inspected checkpoint that is still open; the gravest findings come first.

    Args:
        report: with norms and, for the findings that contradict a packing, with evidence.
        tolerance: relative, of norms against the baseline.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    chosen = [check for check in CHECKS if _may_fire(check, wanted)]
    subject = Subject(report, wanted.expect, baseline, tolerance, progress)
    found = list(_judged(_noticed(report.findings), wanted))
    for check in chosen:
        told = (Finding(check.CODE, check.SEVERITY, message, layer) for layer, message in check.told(subject))
        found += _judged(told, wanted)
    return sorted(found, key=lambda finding: -SEVERITIES.index(finding.severity))


def failing(findings: Iterable[Finding], wanted: Policy) -> bool:
    """Whether any finding is as grave as the policy fails on."""
    return any(SEVERITIES.index(f.severity) >= SEVERITIES.index(wanted.fail_on) for f in findings)


def check(
    path: str | PathLike[str],
    *,
    heads: Sequence[str] = (),
    select: Collection[str] = ("*",),
    ignore: Collection[str] = (),
) -> list[Finding]:
    """Check a checkpoint, as ``qkvinspect check`` does without settings: for tests and notebooks.

    Args:
        heads: as --heads takes them, such as ``"8"`` or ``"decoder.*=32/8"``.
        select, ignore: codes, or globs of codes.

    Returns:
        the findings, the gravest first; their severity is "info", "warning" or "error".

    Raises:
        CheckpointError: the file cannot be read, or not without doubt.
        UsageError: a code is not known.
    """
    from qkvinspect.formats import open_checkpoint
    from qkvinspect.inspection import Options, inspect

    wanted = parse_policy({"select": list(select), "ignore": list(ignore)})
    with open_checkpoint(fspath(path)) as checkpoint:
        return run(inspect(checkpoint, Options(heads=tuple(heads), evidence="each")), wanted)


def _may_fire(check: Check, wanted: Policy) -> bool:
    return wanted.severity_of(check.CODE, None, check.SEVERITY) is not None


def _noticed(findings: Iterable[Finding]) -> Iterator[Finding]:
    """What reading noticed; what a check says better is left to it."""
    for finding in findings:
        if finding.code in NOTICED:
            yield Finding(finding.code, NOTICED[finding.code][0], finding.message, finding.layer)


def _judged(findings: Iterable[Finding], wanted: Policy) -> Iterator[Finding]:
    for finding in findings:
        severity = wanted.severity_of(finding.code, finding.layer, finding.severity)
        if severity is not None:
            yield Finding(finding.code, severity, finding.message, finding.layer)
