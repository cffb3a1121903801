"""Two heads of the same part hold the same bytes.

Trained heads never do. K and V whose heads repeat in equal runs are kv heads written out once for every query head,
as conversions from GQA to MHA do: that is said, with the number of kv heads that it amounts to; one alone only where K
and V both have it. Where the number of heads is unknown, rows of K and V that repeat throughout tell the same, if most
layers of a stack have it, or both K and V of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.checks.subject import Fault, Subject, heads_named
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.EQUAL_HEADS

Places = Mapping[bytes, Sequence[int]]
"""For each content, the heads that have it."""


def find(subject: Subject) -> Iterator[Fault]:
    layers: dict[str, dict[str, Places]] = {}
    for layer, part, values, _ in subject.heads():
        places: dict[bytes, list[int]] = {}
        for head, one in enumerate(values):
            if not one.constant:
                places.setdefault(one.digest, []).append(head)
        layers.setdefault(layer, {})[part.name] = places
    for layer, parts in layers.items():
        each = {part: _repeats(list(places.values())) for part, places in parts.items() if part != "q"}
        alike = len(each) > 1 and len({*each.values()}) == 1
        for part, held in parts.items():
            if each.get(part) and (alike or len(held) > 1):
                count = f"{len(held)} kv head{'s' if len(held) > 1 else ''}"
                yield layer, f"the heads of {part.upper()} are {count}, each written {each[part]} times"
                continue
            for heads in held.values():
                if len(heads) > 1:
                    yield layer, f"{heads_named(list(heads))} of {part.upper()} hold the same values"
    for attention, part, _ in subject.parts():
        copies = subject.kv_copies.get((part.weight.name, part.name))
        if attention.heads is None and copies is not None and copies.throughout:
            yield attention.layer, copies.words


def _repeats(places: Sequence[Sequence[int]]) -> int:
    """How many neighbouring heads are equal each, where all are in runs of one length; else 0."""
    count = sum(map(len, places))
    each = count // len(places) if places else 0
    if each < 2:
        return 0
    runs = [list(range(start, start + each)) for start in range(0, count, each)]
    return each if [list(heads) for heads in places] == runs else 0
