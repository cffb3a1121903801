"""A tensor that is stored as boxes in several files, read as one row-major, little-endian run of bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from qkvinspect.checkpoint import ByteSource, Extent, Region, TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.fast_dataclass import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = NDArray[np.void]
    """Elements as raw bytes, whatever their dtype."""


@dataclass(frozen=True, slots=False)
class Box:
    """A box of a tensor.

    Attributes:
        at, sizes: its first element and its sizes, in the whole.
        reach: all that is read of the file that holds it.
        open: describes it as a tensor of its own, of ``sizes``; asked when it is first read.
    """

    at: tuple[int, ...]
    sizes: tuple[int, ...]
    reach: Region
    open: Callable[[], TensorInfo]

    @cached_property
    def info(self) -> TensorInfo:
        return self.open()


class Assembled(Region):
    """The bytes of a whole tensor, gathered from its pieces; only what is asked for is read.

    Args:
        source: the file that tells of the pieces.
        pieces: these hold every element of ``shape`` exactly once.
    """

    def __init__(self, source: ByteSource, dtype: DType, shape: tuple[int, ...], pieces: Sequence[Box]) -> None:
        super().__init__(source, 0, dtype.nbytes(prod(shape)))
        self._width = dtype.bits // 8
        self._shape = shape
        self._pieces = [piece for piece in pieces if 0 not in piece.sizes]

    @property
    def extents(self) -> tuple[Extent, ...]:
        return tuple(extent for piece in self._pieces for extent in piece.reach.extents)

    @cached_property
    def _only(self) -> TensorInfo | None:
        """The piece that is the whole tensor in the right byte order, if there is one."""
        info = self._pieces[0].info if len(self._pieces) == 1 else None
        return info if info is not None and info.contiguous and info.byteorder == "little" else None

    def place(self, offset: int) -> tuple[ByteSource, int] | None:
        only = self._only
        return None if only is None else only.region.place(only.offset * self._width + offset)

    def read(self, offset: int, length: int) -> bytes:
        import numpy as np

        if not length:
            return b""
        if self._only is not None:
            return self._only.region.read(self._only.offset * self._width + offset, length)
        first, last = offset // self._width, -(-(offset + length) // self._width)
        words = np.empty(last - first, f"V{self._width}")
        self._fill(words, (), first, last)
        start = offset - first * self._width
        return words.tobytes()[start : start + length]

    def _fill(self, out: Words, lead: tuple[int, ...], first: int, last: int) -> None:
        """Elements ``first`` to ``last`` of what lies at the indices ``lead``: whole rows, and parts of two."""
        row = prod(self._shape[len(lead) + 1 :])
        start, stop = -(-first // row), last // row
        if start > stop:
            self._fill(out, (*lead, stop), first - stop * row, last - stop * row)
            return
        if first < start * row:
            self._fill(out[: start * row - first], (*lead, start - 1), first - (start - 1) * row, row)
        if start < stop:
            self._fill_rows(out[start * row - first : stop * row - first], lead, start, stop)
        if stop * row < last:
            self._fill(out[stop * row - first :], (*lead, stop), 0, last - stop * row)

    def _fill_rows(self, out: Words, lead: tuple[int, ...], start: int, stop: int) -> None:
        depth = len(lead)
        view = out.reshape(stop - start, *self._shape[depth + 1 :]) if self._shape else out
        for piece in self._pieces:
            at, sizes = piece.at or (0,), piece.sizes or (1,)
            low, high = max(start, at[depth]), min(stop, at[depth] + sizes[depth])
            inner = tuple(index - begin for index, begin in zip(lead, at, strict=False))
            if low < high and all(0 <= index < size for index, size in zip(inner, sizes, strict=False)):
                behind = (slice(a, a + n) for a, n in zip(at[depth + 1 :], sizes[depth + 1 :], strict=True))
                view[(slice(low - start, high - start), *behind)] = _rows(
                    piece.info, inner, range(low - at[depth], high - at[depth])
                )


def _rows(info: TensorInfo, lead: tuple[int, ...], rows: range) -> Any:
    """Rows of a piece, of what lies at its indices ``lead``."""
    import numpy as np

    from qkvinspect.weights.reading import read_rows
    from qkvinspect.weights.strided import StridedMatrix

    depth = len(lead)
    shape, strides = (len(rows), *info.shape[depth + 1 :]), info.strides[depth:] or (1,)
    start = info.offset + sum(i * step for i, step in zip((*lead, rows.start), info.strides, strict=False))
    axes = [(prod(shape), 1)] if info.contiguous else [axis for axis in zip(shape, strides, strict=True) if axis[0] > 1]
    *outer, (height, down), (width, across) = [(1, 1), (1, 1), *axes]
    data = bytearray()
    for index in product(*(range(size) for size, _ in outer)):
        offset = start + sum(i * step for i, (_, step) in zip(index, outer, strict=True))
        matrix = StridedMatrix(info, height, width, down, across, offset, info.dtype.bits)
        data += b"".join(read_rows(matrix, (range(height),)))
    return np.frombuffer(data, f"V{info.dtype.bits // 8}").reshape(shape)
