"""Q, K and V of a layer have different dtypes, or a layer another than the rest of its stack.

Part of a conversion to another dtype was left out. Of stacks, those of at least four layers count, where at most a
quarter differ. Codes are not compared: quantisers choose finer ones for some layers, and for V, on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject, outvoted
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.MIXED_DTYPE


def find(subject: Subject) -> Iterator[Fault]:
    for attention in subject.attentions:
        plain = [weight for weight in attention.weights if weight.encoding is None]
        if len({weight.dtype.name for weight in plain}) > 1:
            named = ", ".join(f"{info.name} {info.dtype.name}" for info in attention.weights)
            yield attention.layer, f"its weights differ in dtype: {named}"
    for stack in subject.stacks.values():
        dtypes = {one.layer: one.dtype for one in stack if all(weight.encoding is None for weight in one.weights)}
        if vote := outvoted(dtypes):
            usual, count, odd = vote
            for layer in odd:
                yield layer, f"it is {dtypes[layer]}, where {count} others of its stack are {usual}"
