"""Q, K or V is zero in every value.

Nothing trains to exactly zero: the tensor was allocated and never filled, or its source was not found when the
checkpoint was converted. Biases start at zero and are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.ZERO_PART


def find(subject: Subject) -> Iterator[Fault]:
    for attention, part, values in subject.parts():
        if values and all(one.constant and not one.lowest for one in values):
            yield attention.layer, f"{part.name.upper()} is zero throughout: convert or copy its weights again"
