"""A layer lacks a bias or an output projection that the rest of its stack has, or has one too many.

Counted within stacks of at least four layers, where at most a quarter differ; architectures without a bias, or with
one for Q and V only, have none in any layer and are no finding.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject, outvoted
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.MISSING_BIAS


def find(subject: Subject) -> Iterator[Fault]:
    for stack in subject.stacks.values():
        roles = {attention.layer: frozenset(attention.tensors) for attention in stack}
        if not (vote := outvoted(roles)):
            continue
        usual, count, odd = vote
        for layer in odd:
            for verb, difference in (("lacks", usual - roles[layer]), ("has", roles[layer] - usual)):
                if difference:
                    named = ", ".join(sorted(difference))
                    yield layer, f"it {verb} {named}, unlike {count} others of its stack"
