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
<<<<<<< HEAD
        why = f"none of its {count} tensors has a name that a known layout uses" if count else "it holds no tensors"
        yield None, why
=======
        unread = any(finding.code is FindingCode.NO_VALUES for finding in subject.report.findings)
        unnamed = f"none of its {count} tensors has a name that a known layout uses"
        yield None, "the attention that its names speak of cannot be decoded" if unread else unnamed
>>>>>>> break15
