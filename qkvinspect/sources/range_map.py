"""Ranges of a file, kept in order, each with a value."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")
Range = tuple[int, int]
"""The first byte, and that after the last."""


class Runs(Generic[Value]):
    """Ranges that do not overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._items: list[tuple[int, int, Value]] = []

    def add(self, start: int, stop: int, value: Value) -> None:
        at = bisect_left(self._starts, start)
        self._starts.insert(at, start)
        self._items.insert(at, (start, stop, value))

    def remove(self, start: int) -> None:
        at = bisect_left(self._starts, start)
        del self._starts[at], self._items[at]

    def clear(self) -> None:
        self._starts.clear()
        self._items.clear()

    def over(self, start: int, stop: int) -> list[tuple[int, int, Value]]:
        """The ranges that overlap a range."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        return [item for item in self._items[first : bisect_left(self._starts, stop)] if item[1] > start]


def gaps(start: int, stop: int, taken: Iterable[tuple[int, int, object]]) -> Iterator[Range]:
    """The gaps within a range."""
    for first, last, _ in sorted(taken, key=lambda item: item[0]):
        if first > start:
            yield start, min(first, stop)
        start = max(start, last)
        if start >= stop:
            return
    if start < stop:
        yield start, stop


def joined(ranges: Iterable[Range], near: int, share: int) -> Iterator[Range]:
    """Join ranges in order into fewer larger ones, across gaps that are small, or a small share of the whole.

    Args:
        near: bytes that a gap may have in any case.
        share: gaps may else have, together, so many times fewer bytes than what is wanted.
    """
    start = stop = spare = 0
    for first, last in sorted(ranges):
        gap, more = first - stop, max(last - max(first, stop), 0) // share
        if start < stop and gap <= max(near, spare + more):
            spare = max(spare + more - max(gap, 0), 0)
            stop = max(stop, last)
        else:
            if start < stop:
                yield start, stop
            start, stop, spare = first, last, more
    if start < stop:
        yield start, stop
