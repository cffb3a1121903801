"""Ranges of bytes from one file into another, without carrying them through this process where that can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Protocol, runtime_checkable

from qkvinspect.checkpoint import Region

_STEP = 8 << 20
_READ = 1 << 20
_SMALL = 64 << 10
"""Bytes under which asking the system to copy takes longer than copying."""


@runtime_checkable
class Copying(Protocol):
    """A source that can have the system copy its bytes, without carrying them through this process."""

    def copy(self, offset: int, length: int, target: int) -> int:
        """Append bytes to the file of descriptor ``target``; how many, which may be none."""
        ...


def copy_range(region: Region, offset: int, length: int, file: BinaryIO, advance: Callable[[int], None]) -> None:
    """Write some bytes of a region to a file, by the system where it can.

    Args:
        advance: told how many bytes have just been written.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    source, start = region.place(offset) or (None, 0)
    if isinstance(source, Copying) and length >= _SMALL:
        file.flush()
        while copied := source.copy(start, min(length, _STEP), file.fileno()):
            offset, start, length = offset + copied, start + copied, length - copied
            advance(copied)
    while length:
        chunk = region.read(offset, min(length, _READ))
        file.write(chunk)
        offset, length = offset + len(chunk), length - len(chunk)
        advance(len(chunk))
