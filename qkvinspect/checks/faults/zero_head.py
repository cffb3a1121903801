"""A head of Q, K or V is zero in every value, and others are not.

Pruning leaves such heads; so does a copy of too few rows. It is a warning, as the first is meant.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject, heads_named
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.ZERO_HEAD


def find(subject: Subject) -> Iterator[Fault]:
    for layer, part, values, _ in subject.heads():
        zero = [head for head, one in enumerate(values) if one.constant and not one.lowest]
        if 0 < len(zero) < len(values):
            yield layer, f"{part.name.upper()} is zero in {heads_named(zero)}: pruned, or never written"
