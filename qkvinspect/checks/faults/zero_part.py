"""Q, K or V is zero in every value.

Nothing trains to exactly zero: the tensor was allocated and never filled, or its source was not found when the
checkpoint was converted. Biases start at zero and are not looked at, nor is a part that is zero in every layer of an
untrained stack, which is ``zero-everywhere``.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.faults.zero_everywhere import initialised, is_zero
from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.ZERO_PART


def find(subject: Subject) -> Iterator[Fault]:
    zero = [(attention, part) for attention, part, values in subject.parts() if is_zero(values)]
    known = initialised(subject) if zero else ()
    for attention, part in zero:
        if (attention.layer, part.name) not in known:
            yield attention.layer, f"{part.name.upper()} is zero throughout: convert or copy its weights again"
