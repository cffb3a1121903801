"""Copy ranges of bytes between files, inside the kernel where possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Protocol, TypeGuard

from qkvinspect.checkpoint import ByteSource, Region

_STEP = 8 << 20
_READ = 1 << 20
_SMALL = 64 << 10
"""Below so many bytes, a system call to copy takes longer than reading and writing."""


class Copying(Protocol):
    """A source whose bytes the kernel can copy."""

    def copy(self, offset: int, length: int, target: int) -> int:
        """Append bytes to the file of descriptor ``target``; returns how many, which may be 0."""
        ...


def is_copying(source: ByteSource | None) -> TypeGuard[Copying]:
    """Whether the kernel can copy its bytes: those of files of this machine. Quick, as it is asked of every tensor."""
    return hasattr(source, "copy")


def copy_range(region: Region, offset: int, length: int, file: BinaryIO, advance: Callable[[int], None]) -> None:
    """Write some bytes of a region to a file, by the system where it can.

    Args:
        advance: called with the number of bytes just written.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    source, start = region.place(offset) or (None, 0)
    if is_copying(source) and length >= _SMALL:
        file.flush()
        while copied := source.copy(start, min(length, _STEP), file.fileno()):
            offset, start, length = offset + copied, start + copied, length - copied
            advance(copied)
    while length:
        chunk = region.read(offset, min(length, _READ))
        file.write(chunk)
        offset, length = offset + len(chunk), length - len(chunk)
        advance(len(chunk))
