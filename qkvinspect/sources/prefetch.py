"""Announce what will be read, so that remote sources can fetch it in few requests, several at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from qkvinspect.checkpoint import Region
from qkvinspect.tensor_table import LoneRegion


@runtime_checkable
class Foreseeing(Protocol):
    """A source that makes use of announcements."""

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Announce ranges, each from its first byte to before its last."""
        ...


_UNKNOWN = (True, None)


def announce(regions: Iterable[Region]) -> None:
    """Announce that these will be read, grouped by file in the order given.

    Raises:
        CheckpointError: the file cannot be opened.
    """
    found: dict[int, tuple[Foreseeing | None, list[tuple[int, int]]]] = {}
    for region in regions:
        if type(region) in (LoneRegion, Region) and found.get(id(region.source), _UNKNOWN)[0] is None:
            continue  # nearly always: a file of this machine has been met before
        for source, start, stop in region.extents:
            if id(source) not in found:
                found[id(source)] = source if isinstance(source, Foreseeing) else None, []
            found[id(source)][1].append((start, stop))
    for source, ranges in found.values():
        if source is not None:
            source.expect(ranges)
