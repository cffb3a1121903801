"""All values of Q, K or V, or of one head of it, are the same number, which is not zero.

Such weights were filled, not trained (``torch.ones``, a placeholder, an uninitialised page of memory).
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject, heads_named
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.CONSTANT_PART


def find(subject: Subject) -> Iterator[Fault]:
    for attention, part, values in subject.parts():
        if part.shape[0] * part.shape[1] < 2 * len(values):
            continue  # a head of one value is constant by nature
        same = [head for head, one in enumerate(values) if one.constant and one.lowest]
        if same and len({values[head].lowest for head in same}) == 1 and len(same) == len(values):
            yield attention.layer, f"every value of {part.name.upper()} is {values[0].lowest:g}: it was filled"
        elif same and attention.heads is not None:
            yield attention.layer, f"{part.name.upper()} has one value throughout in {heads_named(same)}"
