"""Saying what will be read, before it is: a source that is far away fetches it in few requests, several at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from qkvinspect.checkpoint import Region


@runtime_checkable
class Foreseeing(Protocol):
    """A source to which that is of use."""

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Told what will be read, each from its first byte to before its last."""
        ...


def announce(regions: Iterable[Region]) -> None:
    """Say that these will be read, file by file as they come here.

    Raises:
        CheckpointError: the file cannot be opened.
    """
    found: dict[int, tuple[Foreseeing | None, list[tuple[int, int]]]] = {}
    for region in regions:
        for source, start, stop in region.extents:
            if id(source) not in found:
                found[id(source)] = source if isinstance(source, Foreseeing) else None, []
            found[id(source)][1].append((start, stop))
    for source, ranges in found.values():
        if source is not None:
            source.expect(ranges)
