"""How several checkpoints that are kin lie between each other.

What training adds to a model hardly lies along what was added before, so squared distances add up along a line of
descent. A checkpoint lies between two others where its squared distances to them add up to that between them: where
the ways from it to them are at right angles, or nearly so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal

from qkvinspect.lineage.kinship import Kinship

Distances = Mapping[frozenset[int], float]
"""The squared distances of pairs."""

_APART = 0.25
"""How much of another's way from the base a checkpoint goes along at most that parted from it there."""

_ASIDE = 0.2
"""The greatest cosine of two ways that lead apart; of three checkpoints that stem from a fourth it is about 0.5."""


@dataclass(frozen=True, slots=True)
class Join:
    """Two checkpoints that nothing known lies between.

    Attributes:
        a, b: their places.
        distance: the squared distance.
    """

    a: int
    b: int
    distance: float

    def to_dict(self) -> dict[str, object]:
        """Its form in the JSON contract."""
        return {"a": self.a, "b": self.b, "distance": self.distance}


def joins(count: int, kinships: Sequence[Kinship]) -> tuple[Join, ...]:
    """The shortest tree of each family, as joins of two checkpoints, the nearest first."""
    families = list(range(count))
    found: list[Join] = []
    known = [(one.distance, one) for one in kinships if one.kin and one.distance is not None]
    for distance, one in sorted(known, key=lambda pair: pair[0]):
        ours, theirs = families[one.a], families[one.b]
        if ours != theirs:
            found.append(Join(one.a, one.b, distance))
            families = [ours if family == theirs else family for family in families]
    return tuple(found)


def with_others(names: Sequence[str], kinships: Sequence[Kinship], base: int | None = None) -> tuple[Kinship, ...]:
    """The pairs, with what the other checkpoints tell of them.

    Args:
        base: the place of the one from which its kin are known to have been made, if any is.
    """
    given = [_of_base(names, one, base) if base in (one.a, one.b) else one for one in kinships]
    parents: dict[int, set[int]] = {place: set() for place in range(len(names))}
    for one in given:
        if one.verdict == "derived" and one.descendant is not None:
            parent, child = (one.a, one.b) if one.descendant == "b" else (one.b, one.a)
            parents[child].add(parent)
    distances = {frozenset((one.a, one.b)): one.distance for one in given if one.distance is not None}
    undecided = [one for one in given if one.verdict == "kin"]
    between_these = {frozenset((one.a, one.b)): one.distance for one in undecided if one.distance is not None}
    return tuple(
        one if one.verdict != "kin" else _told(names, one, parents, distances, between_these, base) for one in given
    )


def _of_base(names: Sequence[str], one: Kinship, base: int | None) -> Kinship:
    """A pair of which one is the parent that was given."""
    descendant: Literal["a", "b"] = "b" if one.a == base else "a"
    if one.verdict == "kin" or (one.verdict == "derived" and one.descendant is None):
        why = f"{names[base or 0]} was given as the parent" + (f"; {one.why}" if one.verdict == "derived" else "")
        return replace(one, verdict="derived", descendant=descendant, why=why)
    return one


def _told(
    names: Sequence[str],
    one: Kinship,
    parents: Mapping[int, set[int]],
    distances: Distances,
    undecided: Distances,
    base: int | None,
) -> Kinship:
    """What the others tell of a pair of which nothing more is known: never that one was made from the other.

    Where they part near one of them, it looks as if the other was made from it.
    """
    for parent in sorted(parents[one.a] & parents[one.b] - {base}):
        return replace(one, verdict="common ancestor", why=f"both were made from {names[parent]}")
    if base is not None and {one.a, one.b} <= {place for place in parents if base in parents[place]}:
        on_the_way = [_share(distances, base, inner, outer) for inner, outer in ((one.a, one.b), (one.b, one.a))]
        if all(share is not None and share < _APART for share in on_the_way):
            return replace(one, verdict="common ancestor", why=f"each went its own way from {names[base]}")
        for share, inner, outer in zip(on_the_way, (one.a, one.b), (one.b, one.a), strict=True):
            if share is not None and share > 1 - _APART:
                why = f"{names[outer]} was made from {names[inner]}, or from something between it and {names[base]}"
                return replace(one, why=why)
        return replace(one, why=f"they part between {names[base]} and both, or one was made from the other")
    for other in range(len(names)):
        if between(undecided, one.a, other, one.b):
            return replace(
                one, why=f"{names[other]} lies between them: they part near it, or one came to be through it"
            )
    return one


def _share(distances: Distances, base: int, inner: int, outer: int) -> float | None:
    """How much of the way from the base to one checkpoint another went along as well, 0 none and 1 all."""
    ways = [distances.get(frozenset(pair)) for pair in ((base, inner), (base, outer), (inner, outer))]
    first, second, third = ways
    return (
        None if first is None or second is None or third is None or not first else (first + second - third) / 2 / first
    )


def between(distances: Distances, a: int, middle: int, b: int) -> bool:
    """Whether ``middle`` lies between two others."""
    if len({a, middle, b}) < 3:
        return False
    sides = [distances.get(frozenset(pair)) for pair in ((a, middle), (middle, b), (a, b))]
    first, second, whole = sides
    if first is None or second is None or whole is None or not first or not second:
        return False
    return (first + second - whole) / 2 <= _ASIDE * sqrt(first * second)
