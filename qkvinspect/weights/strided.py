"""View a stored weight as its matrix [out, in]. Pure arithmetic; nothing is read."""

from __future__ import annotations

from functools import lru_cache
from math import gcd

from qkvinspect.checkpoint import Orientation, TensorInfo, contiguous_strides
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class StridedMatrix:
    """A tensor seen as [out, in]: where its elements lie, nothing read.

    Attributes:
        unit: bits of one column; 8 for types narrower than a byte, whose columns count bytes.
        grain: columns that hold whole elements only together (3 bytes for four 6-bit floats).
        offset, row_stride, col_stride: in units, from the start of the storage.
    """

    info: TensorInfo
    rows: int
    cols: int
    row_stride: int
    col_stride: int
    offset: int
    unit: int
    grain: int = 1

    def take(self, rows: range) -> StridedMatrix:
        """Some of the rows."""
        if rows == range(self.rows):
            return self
        offset, row_stride = self.offset + rows.start * self.row_stride, self.row_stride * rows.step
        return StridedMatrix(
            self.info, len(rows), self.cols, row_stride, self.col_stride, offset, self.unit, self.grain
        )

    @property
    def transposed(self) -> StridedMatrix:
        """Rows for columns."""
        return StridedMatrix(
            self.info, self.cols, self.rows, self.col_stride, self.row_stride, self.offset, self.unit, self.grain
        )

    @property
    def by_columns(self) -> bool:
        """Whether neighbours in the file belong to different rows."""
        return self.col_stride > self.row_stride

    @property
    def plain(self) -> bool:
        """Whether the rows are one run of bytes, little-endian, in order."""
        in_order = self.col_stride == 1 or self.cols == 1
        gapless = self.row_stride == self.cols or self.rows == 1
        return in_order and gapless and (self.unit == 8 or self.info.byteorder == "little")


def strided_shape(info: TensorInfo, orientation: Orientation) -> tuple[int, int]:
    """(out, in) of a stored weight, in elements; a bias is (out, 1).

    Raises:
        LayoutError: the tensor has no such form.
    """
    rows, cols, _, _ = _axes(info, orientation)
    return rows, cols


def shape_as_rows(name: str, shape: tuple[int, ...], orientation: Orientation) -> tuple[int, int]:
    """(out, in) of a weight of this shape, however it is stored.

    Raises:
        LayoutError: it has no such form.
    """
    found = _form(shape, contiguous_strides(shape), orientation)
    if found is None:
        raise LayoutError("weight has no form [out, in]", tensor=name, found=f"shape {list(shape)}")
    return found[:2]


def strided_matrix(info: TensorInfo, orientation: Orientation) -> StridedMatrix:
    """See a stored weight as [out, in].

    Raises:
        LayoutError: the tensor has no such form.
    """
    bits, block = info.dtype.bits, info.dtype.block
    if bits >= 8 and block == 1:
        rows, cols, row_stride, col_stride = _axes(info, orientation)
        return StridedMatrix(info, rows, cols, row_stride, col_stride, info.offset, bits)
    rows, cols, row_stride, _ = _axes(info, orientation)
    if orientation != "out_in" or not info.contiguous or cols % block or cols // block * bits % 8:
        raise LayoutError(
            f"rows of {info.dtype.name} do not begin on whole bytes",
            tensor=info.name,
            found=f"{cols} elements of {bits} bits" + f" for each {block}" * (block > 1) + " a row",
        )
    width, step = (count // block * bits // 8 for count in (cols, row_stride))
    return StridedMatrix(info, rows, width, step, 1, 0, 8, grain=bits // gcd(bits, 8))


_MOST_ROWS = 1 << 31
"""The most rows of a tensor without bytes: loops over more of them would hardly end."""


def _axes(info: TensorInfo, orientation: Orientation) -> tuple[int, int, int, int]:
    """(rows, cols, row stride, column stride), in elements."""
    if 0 in info.shape and max(info.shape) > _MOST_ROWS:
        raise LayoutError(
            "has no elements, and more rows than any tensor",
            tensor=info.name,
            found=f"shape {list(info.shape)}",
            hint="leave it out with --layer",
        )
    found = _form(info.shape, info.strides, orientation)
    if found is None:
        raise LayoutError("weight has no form [out, in]", tensor=info.name, found=f"shape {list(info.shape)}")
    return found


@lru_cache(1 << 10)
def _form(
    shape: tuple[int, ...], strides: tuple[int, ...], orientation: Orientation
) -> tuple[int, int, int, int] | None:
    """As ``_axes``; None where there is no such form. The layers of a stack are alike."""
    axes = list(zip(shape, strides, strict=True))
    if orientation != "out_in":
        split = 1 if orientation == "in_heads_dim" else len(axes) - 1
    elif len(axes) > 2 and set(shape[:-1]) == {1}:
        split = len(axes)  # a bias stored as [1, 1, E]
    else:
        split = 1
    first, second = _merge(axes[:split]), _merge(axes[split:])
    if first is None or second is None:
        return None
    (rows, row_stride), (cols, col_stride) = (first, second) if orientation == "out_in" else (second, first)
    return rows, cols, row_stride, col_stride


def _merge(axes: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Several neighbouring axes as one: (size, stride); None where they cannot be."""
    if any(n == 0 for n, _ in axes):
        return 0, 1
    size, stride = 1, 1
    for n, step in reversed(axes):
        if n == 1:
            continue
        if size != 1 and step != size * stride:
            return None
        size, stride = n * size, stride if size != 1 else step
    return size, stride
