"""Bytes that are looked at once, read into memory that the thread has: the system would have to clear new memory.

What is read so stays in the processor's cache while it is looked at.
"""

from __future__ import annotations

from mmap import mmap
from threading import local
from typing import Protocol, TypeGuard

from qkvinspect.checkpoint import ByteSource, Region

AT_ONCE = 1 << 21
"""Bytes that a core keeps near itself: of such sources no more are read at once.

Of half as many, two threads sum a third fewer float32 in the same time: each piece is a wait for Python's lock, which
numkong keeps while it sums them.
"""

_LINE = 64
"""Bytes of a line of the processor's cache. Some processors take twice as long to copy bytes to another place in a
line than they came from."""

_KEPT = local()


class Filling(Protocol):
    """A source that reads into memory that is there: a file of this machine."""

    def read_into(self, offset: int, room: memoryview) -> None:
        """As many bytes from ``offset`` as there is room; CheckpointError if they are not there."""
        ...

    def read_apart(self, offset: int, step: int, length: int, room: memoryview) -> None:
        """Pieces of ``length`` bytes, each ``step`` bytes after the one before; CheckpointError as well."""
        ...


def is_filling(source: ByteSource | None) -> TypeGuard[Filling]:
    """Whether it does. Quick, as it is asked of every piece."""
    return hasattr(source, "read_into")


def read_briefly(source: ByteSource, offset: int, length: int) -> bytes | memoryview:
    """Bytes of a source, to be used before this thread reads so again.

    Raises:
        CheckpointError: they are not there.
    """
    if length > AT_ONCE or not is_filling(source):
        return source.read(offset, length)
    kept: memoryview | None = getattr(_KEPT, "room", None)
    if kept is None:
        kept = _KEPT.room = memoryview(mmap(-1, AT_ONCE + _LINE))  # which begins with a line
    room = kept[offset % _LINE :][:length]
    source.read_into(offset, room)
    return room


def read_region_briefly(region: Region, offset: int, length: int) -> bytes | memoryview:
    """Bytes of a region, from ``offset`` within it, to be used before this thread reads so again.

    Raises:
        CheckpointError: they are not there, or not those that were written.
    """
    source, start = (region.place(offset) if is_filling(region.source) else None) or (None, 0)
    return region.read(offset, length) if source is None else read_briefly(source, start, length)
