"""A layer of a stack has no attention, though most do.

The numbers of a stack's layers have a gap. Where attention stands in every nth layer, or in as few as half of them,
as in hybrids with state-space layers, that is the architecture and no finding.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject, listed, number_in
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.MISSING_LAYER


def find(subject: Subject) -> Iterator[Fault]:
    if subject.report.selected:
        return
    for name, stack in subject.stacks.items():
        numbers = {number_in(attention.layer) for attention in stack}
        gaps = (
            [number for number in range(min(numbers), max(numbers) + 1) if number not in numbers]
            if (max(numbers) < 4 * len(numbers))
            else []
        )
        first = list(range(min(numbers))) if 0 < min(numbers) <= len(numbers) // 4 else []
        missing = first + gaps
        if missing and 4 * len(missing) <= len(numbers):
            prefix, _, rest = name.partition("#")
            yield None, f"{prefix}N{rest}: there is no attention for N = {listed(missing)} of 0 to {max(numbers)}"
