"""No attention was found.

A gate that finds nothing to check must not pass. Where a checkpoint holds none on purpose, ignore this check for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.NO_ATTENTION


def find(subject: Subject) -> Iterator[Fault]:
    if not subject.report.attentions:
        count = len(subject.report.checkpoint.tensors)
        if not count:
            yield None, "it holds no tensors"
        elif any(finding.code is FindingCode.NO_VALUES for finding in subject.report.findings):
            yield None, "the attention that its names speak of cannot be decoded"
        elif (account := subject.report.account) is not None and account.unrecognised:
            count = len({found.module for found in account.unrecognised})
            yield None, f"none was understood: {count} {'module looks' if count == 1 else 'modules look'} like it"
        elif any(finding.code is FindingCode.UNEXPECTED_SHAPE for finding in subject.report.findings):
            yield None, "what has its names has shapes that it cannot have"
        else:
            yield None, f"none of its {count} tensors has a name that a known layout uses"
