"""Two layers hold the same bytes in Q, K or V, and do not share storage.

Layers that a model ties (ALBERT) share one tensor in a ``.pt``, which is no finding. Two copies are a layer written
twice, a stack that was grown by duplication and not trained on, or ties that the format could not keep.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.faults.equal_parts import same_rows
from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Part

CODE: FindingCode = FindingCode.EQUAL_LAYERS


def find(subject: Subject) -> Iterator[Fault]:
    first: dict[tuple[object, ...], tuple[str, Part]] = {}
    copies: dict[tuple[str, str], list[str]] = {}
    for attention, part, values in subject.parts():
        if not values or any(one.constant for one in values):
            continue
        layer, seen = first.setdefault(
            (part.name, part.shape, *(one.digest for one in values)), (attention.layer, part)
        )
        if layer != attention.layer and not same_rows(seen, part):
            copies.setdefault((attention.layer, layer), []).append(part.name.upper())
    for (layer, other), parts in copies.items():
        named = " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
        yield layer, f"its {named} hold{'' if len(parts) > 1 else 's'} the same values as {other or 'another'}"
