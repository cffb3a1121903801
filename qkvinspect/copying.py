"""Rows from one file into another: ranges of bytes where they are that, else gathered piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import BinaryIO, Protocol, runtime_checkable

from qkvinspect.blocks import read_rows
from qkvinspect.matrix import Matrix
from qkvinspect.model import Region

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


def copy_rows(matrix: Matrix, rows: Iterable[range], file: BinaryIO, advance: Callable[[int], None]) -> None:
    """Write rows of a matrix, row-major and little-endian.

    Args:
        advance: told how many bytes have just been written.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    for run in rows:
        part = matrix.take(run)
        if part.plain:
            size = part.unit // 8
            _copy(part.info.region, part.offset * size, part.rows * part.cols * size, file, advance)
        else:
            for chunk in read_rows(matrix, (run,)):
                file.write(chunk)
                advance(len(chunk))


def _copy(region: Region, offset: int, length: int, file: BinaryIO, advance: Callable[[int], None]) -> None:
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
