"""Two of Q, K and V of a layer hold the same bytes.

A conversion that writes V's rows where K's belong does this (huggingface/transformers#40253). Models that share
one projection for both by design store one tensor, which is no finding; where they store it twice, ignore this
check for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Part
from qkvinspect.weights.weight import Weight

CODE: FindingCode = FindingCode.EQUAL_PARTS


def find(subject: Subject) -> Iterator[Fault]:
    for attention in subject.attentions:
        for one, other in combinations(attention.parts, 2):
            mine, others = (subject.values[part.weight.name, part.name] for part in (one, other))
            if not mine or any(head.constant for head in mine) or same_rows(one, other):
                continue
            if one.shape == other.shape and [f.digest for f in mine] == [f.digest for f in others]:
                names = f"{one.name.upper()} and {other.name.upper()}"
                yield attention.layer, f"{names} hold the same values: one was written in the other's place"


def same_rows(one: Part, other: Part) -> bool:
    """Whether both are the same stored bytes, as where modules share a parameter."""
    return one.rows == other.rows and _places(one.weight) == _places(other.weight)


def _places(weight: Weight) -> list[tuple[str, int, int]]:
    return [(info.region.source.name, info.region.start, info.offset) for info in weight.stored]
