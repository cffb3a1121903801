"""An immutable, hashable mapping, for fields of values that serve as keys of caches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FrozenMapping(Mapping[K, V]):
    """A copy of a mapping whose values have hashes; equal to every mapping with the same items, in any order."""

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Mapping[K, V]) -> None:
        self._items = dict(items)
        self._hash = hash(frozenset(self._items.items()))

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return repr(self._items)


def frozen(items: Mapping[K, V]) -> FrozenMapping[K, V]:
    """The mapping itself, where it is one that never changes, else a copy."""
    return items if isinstance(items, FrozenMapping) else FrozenMapping(items)
