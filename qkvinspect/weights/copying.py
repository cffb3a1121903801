"""Copy ranges of bytes between files, inside the kernel where possible."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO, Protocol, TypeGuard

from qkvinspect.checkpoint import ByteSource, Region
from qkvinspect.sources.briefly import read_region_briefly

_STEP = 8 << 20
_READ = 1 << 20
_SMALL = 64 << 10
"""Below so many bytes, a system call to copy takes longer than reading and writing."""

_PAGE = 4096
"""Bytes of a page of the system's cache. Between places that differ within a page, the system copies each in two
pieces, which takes half as long again as to read and to write."""


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
    if is_copying(source) and length >= _SMALL and _lie_alike(start, file):
        file.flush()
        while copied := source.copy(start, min(length, _STEP), file.fileno()):
            offset, start, length = offset + copied, start + copied, length - copied
            advance(copied)
    while length:
        chunk = read_region_briefly(region, offset, min(length, _READ))
        file.write(chunk)
        offset, length = offset + len(chunk), length - len(chunk)
        advance(len(chunk))


def _lie_alike(start: int, file: BinaryIO) -> bool:
    """Whether the system shall copy what begins there: not where that is slow, unless a server may do it."""
    if not hasattr(os, "copy_file_range"):
        return False
    is_of_no_disk = os.major(os.fstat(file.fileno()).st_dev) == 0
    return is_of_no_disk or (start - file.tell()) % _PAGE == 0
