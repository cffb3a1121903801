"""Q, K or V is zero in every layer of a stack that is untrained.

Some models begin with zeros there. What else the layers hold is as torch's initialiser left it, so that nothing was
trained yet: the zeros are an initialisation, or were never written. In a trained model they are ``zero-part``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.checks.head_values import HeadValues
from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.untouched import untouched

CODE: FindingCode = FindingCode.ZERO_EVERYWHERE


def find(subject: Subject) -> Iterator[Fault]:
    for layer, name in sorted(initialised(subject)):
        text = "is zero in every layer of an untrained stack: as a zero initialisation leaves it, or never written"
        yield layer, f"{name.upper()} {text}"


def is_zero(values: Sequence[HeadValues]) -> bool:
    """Whether a part is zero in every value."""
    return bool(values) and all(one.constant and not one.lowest for one in values)


def initialised(subject: Subject) -> set[tuple[str, str]]:
    """Layers and the parts of them that are zero as an initialisation leaves them."""
    found: set[tuple[str, str]] = set()
    for stack in subject.stacks.values():
        zero = [_zero(subject, one) for one in stack]
        alike = len(stack) > 1 and len(set(zero)) == 1 and zero[0]
        if alike and all(map(_others_untouched, stack, zero)):
            found |= {(one.layer, name) for one in stack for name in alike}
    return found


def _zero(subject: Subject, attention: Attention) -> frozenset[str]:
    parts = ((part.name, subject.values[part.weight.name, part.name]) for part in attention.parts)
    return frozenset(name for name, values in parts if is_zero(values))


def _others_untouched(attention: Attention, zero: frozenset[str]) -> bool:
    """Whether a layer has weights that are not zero, each as the initialiser left it."""
    weights = {part.weight.name: part.weight for part in attention.parts if part.name not in zero}
    return bool(weights) and untouched([*weights.values(), *([attention.out] if attention.out is not None else [])])
