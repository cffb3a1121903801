"""Whether one of two kin was made from the other, and how that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.lineage.beside_attention import Beside, beside
from qkvinspect.lineage.fates import LayerFate
from qkvinspect.lineage.kinship import Verdict, label
from qkvinspect.lineage.nothing_new import LayerOrigin, NewContent, Operation, operations
from qkvinspect.lineage.relatives import Relative
from qkvinspect.lineage.values_equal import values_equal

Side = Literal["a", "b"]

_WORDS: dict[Operation, str] = {
    "moved": "in another place",
    "rounded": "rounded to another dtype",
    "turned": "in another basis",
    "zeroed": "set to zero",
    "coded": "rounded to codes",
    "averaged": "averaged over heads of K and V",
    "repeated": "with heads of K and V repeated",
}
SHARED = "both come from one start; nothing tells whether one was made from the other or both from a third"


@dataclass(frozen=True, slots=True)
class Making:
    """What kin are to each other, in a sentence too, and which was made from the other where that can be told."""

    verdict: Verdict
    why: str
    descendant: Side | None = None


def making(places: tuple[int, int], a: Relative, b: Relative, layers: Sequence[LayerFate]) -> Making:
    """Look whether either holds nothing new against the other.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    known: dict[Side, frozenset[Operation]] = {}
    found: dict[Side, Beside] = {}
    biases: list[str] = []
    ways: tuple[tuple[Side, Relative, Relative], ...] = (("b", a, b), ("a", b, a))
    for side, source, target in ways:
        said = operations(source, target, list(_origins(source, target, layers, side)))
        if isinstance(said, NewContent):
            biases += [said.bias] if said.bias else []
        else:
            known[side] = said
            found[side] = beside(source, target, dict(_names(layers, side)))
    explained: list[Side] = [side for side in known if not found[side].new]
    if not explained:
        new = [one.new for one in found.values()] or biases
        but = f"the heads of one are those of the other, but {new[0]} is not: " if new else ""
        return Making("kin", but + SHARED)
    untouched = all(known[side] <= {"equal"} and found[side].equal for side in explained)
    if len(explained) == 2 and untouched:
        equal = values_equal(a, b)
        if equal is True:
            return Making("identical", "all values are equal")
        if equal:  # in rows that had not been looked at
            return Making("kin", f"the heads of one are those of the other, but {equal} is not: {SHARED}")
    return Making("derived", _why(places, known, found, explained), explained[0] if len(known) == 1 else None)


def _why(
    places: tuple[int, int],
    known: dict[Side, frozenset[Operation]],
    found: dict[Side, Beside],
    explained: list[Side],
) -> str:
    side = explained[0]
    done = [_WORDS[one] for one in sorted(known[side] - {"equal"})]
    one, other = (label(place) for place in (places if side == "a" else reversed(places)))
    beside_it = _not_looked_at([found[one] for one in explained])
    if len(explained) == 2:
        which = "neither holds anything that the other has not"
        if beside_it:
            which = "in neither was anything found that the other has not"
    else:
        which = f"{one} holds nothing that {other} has not"
        if beside_it:
            which = f"in {one} nothing was found that {other} has not"
    return which + (f", but {', '.join(done)}" if done else "") + beside_it


def _not_looked_at(sides: Sequence[Beside]) -> str:
    """What of the tensors beside attention was not compared; "" where all was."""
    if any(one.unlike for one in sides):
        return "; tensors beside attention bear other names and were not compared"
    in_part = {name: (rows, some) for one in sides for name, rows, some in one.in_part}
    if not in_part:
        return ""
    name, (rows, some) = max(in_part.items(), key=lambda one: one[1])
    more = f", and of {len(in_part) - 1} other tensors some" if len(in_part) > 1 else ""
    return f"; of the {rows} rows of {name}, {some} were looked at{more}"


def _origins(source: Relative, target: Relative, layers: Sequence[LayerFate], side: Side) -> Iterator[LayerOrigin]:
    """For each layer of one side that of the other that it is, or is a copy of."""
    ours, theirs = ({layer.layer: place for place, layer in enumerate(one.layers)} for one in (source, target))
    other: Side = "a" if side == "b" else "b"
    for layer in layers:
        name, of = getattr(layer, side), getattr(layer, other)
        if name is None:
            continue
        if of is None:
            if layer.like is None:
                continue
            # a copy, its heads in the order of what it was copied from
            geometry = target.layers[theirs[name]].heads
            assert geometry is not None
            heads = {head: head for head in range(geometry.num_heads)}
            yield LayerOrigin(ours[layer.like], theirs[name], heads)
            continue
        pairs = [(getattr(head, side), getattr(head, other) if getattr(head, other) is not None else head.like)
                 for head in layer.heads if head.like_layer is None]  # fmt: skip
        heads = {head: origin for head, origin in pairs if head is not None and origin is not None}
        yield LayerOrigin(ours[of], theirs[name], heads)


def _names(layers: Sequence[LayerFate], side: Side) -> Iterator[tuple[str, str]]:
    """Names of layers of one side with those of the other that they were made of."""
    other = "a" if side == "b" else "b"
    for layer in layers:
        name, of = getattr(layer, side), getattr(layer, other) or layer.like
        if name is not None and of is not None:
            yield name, of
