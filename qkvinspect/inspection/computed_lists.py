"""What a graph computes of a projection that is kept as a list with a tensor for each head, as of one weight.

Each head is an attention of its own there; who looks for attention has the list as one weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.computed_rows import Computed, ComputedAttention, ComputedPart, ComputedUnknown
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.names import Names
from qkvinspect.weights.head_list import HeadList


class _HeadOfList(NamedTuple):
    """A tensor of a list.

    Attributes:
        whole: the name of the list.
        number: of the head.
        rows: of each head.
    """

    whole: str
    number: int
    rows: int


def in_lists(every: Sequence[Computed], names: Names) -> list[Computed]:
    """The same by the names of lists, where the names have such."""
    entries = dict(_entries(names))
    if not entries:
        return [*every]
    found: list[Computed] = []
    by_list: dict[tuple[str, ...], dict[int, ComputedAttention]] = {}
    twice: set[tuple[str, ...]] = set()
    unknown: dict[str, ComputedUnknown] = {}
    for one in every:
        if isinstance(one, ComputedAttention) and one.q.weight in entries:
            key = tuple(_whole(part.weight, entries) for part in one.parts.values())
            number = entries[one.q.weight].number
            if by_list.setdefault(key, {}).setdefault(number, one) != one:
                twice.add(key)
        elif isinstance(one, ComputedUnknown) and one.weight in entries:
            unknown.setdefault(_whole(one.weight, entries), one)
        else:
            found.append(one)
    counts = Counter(one.whole for one in entries.values())
    for key, heads in by_list.items():
        joined = None
        if key not in twice and len(heads) == counts[key[0]]:
            joined = _joined([heads[number] for number in sorted(heads)], entries)
        if joined is not None:
            found.append(joined)
        else:
            unknown.setdefault(key[0], ComputedUnknown(key[0]))
    return [*found, *(one._replace(weight=name) for name, one in unknown.items())]


def _entries(names: Names) -> Iterator[tuple[str, _HeadOfList]]:
    for name, weight in names.weights.encoded.items():
        encoding = weight.encoding
        if isinstance(encoding, HeadList):
            rows = encoding.infos[0].shape[encoding.axis]
            yield from ((info.name, _HeadOfList(name, number, rows)) for number, info in enumerate(encoding.infos))


def _whole(name: str, entries: Mapping[str, _HeadOfList]) -> str:
    return entries[name].whole if name in entries else name


def _joined(heads: Sequence[ComputedAttention], entries: Mapping[str, _HeadOfList]) -> ComputedAttention | None:
    """The attention of all heads; None where K and V are not shared alike."""
    each = {part: [_moved(one.parts[part], entries) for one in heads] for part in "qkv"}
    parts: dict[str, ComputedPart] = {}
    orders: dict[str, list[int]] = {}
    for part, found in each.items():
        every = [run for one in found for run in one.heads]
        kept = [*dict.fromkeys(every)]
        parts[part] = ComputedPart(found[0].weight, tuple(sorted(kept, key=lambda run: run.start)))
        orders[part] = [parts[part].heads.index(run) for run in every]
    many, kv_heads = len(parts["q"].heads), len(parts["k"].heads)
    if orders["k"] != orders["v"] or len(orders["k"]) != many or many % kv_heads:
        return None
    in_turn = [number for number in range(kv_heads) for _ in range(many // kv_heads)]
    turns = {one.turn for one in heads}
    shared_otherwise = orders["k"] != in_turn or any(one.shared_otherwise for one in heads)
    turn = turns.pop() if len(turns) == 1 else 0
    return ComputedAttention(parts["q"], parts["k"], parts["v"], shared_otherwise, turn)


def _moved(part: ComputedPart, entries: Mapping[str, _HeadOfList]) -> ComputedPart:
    entry = entries.get(part.weight)
    if entry is None:
        return part
    by = entry.number * entry.rows
    return ComputedPart(entry.whole, tuple(range(run.start + by, run.stop + by, run.step) for run in part.heads))
