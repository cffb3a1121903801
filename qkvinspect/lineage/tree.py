"""How several checkpoints that are kin lie between each other.

What training adds to a model hardly lies along what was added before, so squared distances add up along a line of
descent. A checkpoint lies between two others where its squared distances to them add up to that between them: where
the ways from it to them are at right angles, or nearly so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from qkvinspect.lineage.kinship import Kinship

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


def with_between(names: Sequence[str], kinships: Sequence[Kinship]) -> tuple[Kinship, ...]:
    """The pairs, with what the other checkpoints tell of them."""
    told_apart = [one for one in kinships if one.verdict == "common ancestor"]  # not a copy and its rounded copy
    distances = {frozenset((one.a, one.b)): one.distance for one in told_apart if one.distance is not None}

    def told(one: Kinship) -> Iterator[Kinship]:
        for other in range(len(names)):
            if one.verdict == "common ancestor" and between(distances, one.a, other, one.b):
                yield replace(
                    one, why=f"{names[other]} lies between them: they part there, or one came to be through it"
                )
        for other in range(len(names)):
            for inner, outer in ((one.a, one.b), (one.b, one.a)):
                if one.verdict == "common ancestor" and between(distances, outer, inner, other):
                    why = f"{names[inner]} lies between {names[outer]} and {names[other]}: one was made from the other"
                    yield replace(one, verdict="derived", why=why)

    return tuple(next(told(one), one) for one in kinships)


def between(distances: dict[frozenset[int], float], a: int, middle: int, b: int) -> bool:
    """Whether ``middle`` lies between two others."""
    if len({a, middle, b}) < 3:
        return False
    sides = [distances.get(frozenset(pair)) for pair in ((a, middle), (middle, b), (a, b))]
    first, second, whole = sides
    if first is None or second is None or whole is None or not first or not second:
        return False
    return (first + second - whole) / 2 <= _ASIDE * sqrt(first * second)
