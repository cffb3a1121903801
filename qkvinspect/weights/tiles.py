"""A matrix cut into pieces that are read at once. Without numpy; nothing is read before it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeGuard

from qkvinspect.checkpoint import Region
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.sources.briefly import read_region_briefly
from qkvinspect.weights.strided import StridedMatrix


class Verifiable(Protocol):
    """A region whose bytes are verified as they are read: to be believed once the last was taken."""

    def pieces(self, sizes: Iterable[int]) -> Iterator[bytes | memoryview]:
        """All bytes, in pieces of these sizes, each to be used before the next is taken.

        There is an error after the last where they are not those that were written.
        """
        ...


def is_verifiable(region: Region) -> TypeGuard[Verifiable]:
    """Whether it is such a region."""
    return hasattr(region, "pieces")


@dataclass(frozen=True, slots=True)
class Tile:
    """A piece of a matrix that is read at once.

    Attributes:
        rows, cols: what it holds of the matrix.
        offset, shape, strides: how that lies in the storage, the axis of larger steps first; in units.
        across: whether that axis is the columns.
    """

    matrix: StridedMatrix
    rows: slice
    cols: slice
    offset: int
    shape: tuple[int, int]
    strides: tuple[int, int]
    across: bool

    @property
    def nbytes(self) -> int:
        """Of its own elements."""
        return self.shape[0] * self.shape[1] * self.matrix.unit // 8

    def stored(self) -> bytes:
        """From its first word to its last, with what lies between them."""
        return self.matrix.info.region.read(*self._reach)

    def stored_briefly(self) -> bytes | memoryview:
        """The same, to be used before this thread asks for more."""
        return read_region_briefly(self.matrix.info.region, *self._reach)

    @property
    def _reach(self) -> tuple[int, int]:
        """Where in the storage its bytes begin, and how many there are."""
        size = self.matrix.unit // 8
        (high, wide), (down, right) = self.shape, self.strides
        return self.offset * size, ((high - 1) * down + (wide - 1) * right + 1) * size

    @property
    def plain(self) -> bool:
        """Whether nothing lies between its words, and they are rows in order, little-endian."""
        (high, wide), (down, right) = self.shape, self.strides
        gapless = (down == wide or high == 1) and (right == 1 or wide == 1)
        return gapless and not self.across and (self.matrix.unit == 8 or self.matrix.info.byteorder == "little")


def tiles(matrix: StridedMatrix, limit: int) -> Iterator[Tile]:
    """Cut a matrix into pieces of about ``limit`` bytes, in the order of the file; nothing is read yet."""
    if not matrix.rows or not matrix.cols:
        return
    across = matrix.col_stride > matrix.row_stride  # columns lie further apart: read by columns
    outer, outer_stride = (matrix.cols, matrix.col_stride) if across else (matrix.rows, matrix.row_stride)
    inner, inner_stride = (matrix.rows, matrix.row_stride) if across else (matrix.cols, matrix.col_stride)
    room = max(limit // (matrix.unit // 8), 1)
    inner_step = min(inner, max(room // max(inner_stride, 1) // matrix.grain, 1) * matrix.grain)
    span = (inner_step - 1) * inner_stride + 1
    outer_step = max((room - span) // max(outer_stride, 1) + 1, 1) if span <= room else 1
    for first in range(0, outer, outer_step):
        many = min(outer_step, outer - first)
        for start in range(0, inner, inner_step):
            count = min(inner_step, inner - start)
            offset = matrix.offset + first * outer_stride + start * inner_stride
            sides = slice(first, first + many), slice(start, start + count)
            rows, cols = reversed(sides) if across else sides
            yield Tile(matrix, rows, cols, offset, (many, count), (outer_stride, inner_stride), across)
