"""The rows of a head are all but multiples of one row: its stable rank is under 1.05.

Such a head can only scale one direction: it was copied from a vector, or training collapsed. The stable rank is the
squared Frobenius norm over the squared spectral norm, at least 1; heads of at least eight rows are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject, heads_named
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.RANK_COLLAPSE

LEAST = 1.05
FEWEST_ROWS = 8


def find(subject: Subject) -> Iterator[Fault]:
    for attention, part, values in subject.parts():
        low = [
            head
            for head, (rows, one) in enumerate(zip(part.heads, values, strict=False))
            if one.stable_rank is not None
            and one.stable_rank < LEAST
            and not one.constant
            and len(rows) >= FEWEST_ROWS
            and part.in_features >= FEWEST_ROWS
        ]
        if low:
            yield attention.layer, f"{part.name.upper()} has all but rank one in {heads_named(low)}"
