"""Two heads of the same part hold the same bytes.

Trained heads never do. K and V whose heads repeat in equal runs are kv heads written out once for every query
head, as conversions from GQA to MHA do: that is said, with the number of kv heads that it amounts to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.checks.subject import Fault, Subject, heads_named
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.EQUAL_HEADS


def find(subject: Subject) -> Iterator[Fault]:
    for layer, part, values, _ in subject.heads():
        places: dict[bytes, list[int]] = {}
        for head, one in enumerate(values):
            if not one.constant:
                places.setdefault(one.digest, []).append(head)
        copies = [heads for heads in places.values() if len(heads) > 1]
        if copies and part.name != "q" and _repeats(list(places.values()), len(values)):
            count = len(places)
            yield (
                layer,
                f"the heads of {part.name.upper()} are {count} kv heads, each written {len(values) // count} times",
            )
        else:
            for heads in copies:
                yield layer, f"{heads_named(heads)} of {part.name.upper()} hold the same values"


def _repeats(places: Sequence[Sequence[int]], count: int) -> bool:
    """Whether neighbouring heads are equal in runs of one length."""
    each = count // len(places)
    return each > 1 and [list(heads) for heads in places] == [
        list(range(start, start + each)) for start in range(0, count, each)
    ]
