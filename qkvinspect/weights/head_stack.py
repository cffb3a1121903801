"""A tensor of three axes that holds a small matrix for each head, seen as one matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.weights.strided import StridedMatrix, strided_matrix
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

Axes = tuple[int, int, int]
"""Which axis counts heads, which the rows of a head, and which what they are multiplied with."""


@dataclass(frozen=True, slots=True)
class HeadStack:
    """Heads as the first of the matrix's axes: row ``head * head_dim + row``."""

    info: TensorInfo
    axes: Axes

    by_columns = False

    @property
    def heads(self) -> int:
        return self.info.shape[self.axes[0]]

    @property
    def label(self) -> str:
        names = dict(zip(self.axes, ("heads", "head_dim", "in"), strict=True))
        return f"{self.info.dtype.name} [{', '.join(names[axis] for axis in range(3))}]"

    @property
    def shape(self) -> tuple[int, int]:
        heads, dim, cols = (self.info.shape[axis] for axis in self.axes)
        return heads * dim, cols

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return (self.info,)

    @property
    def computed_in(self) -> DType:
        return self.info.dtype

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:  # noqa: ARG002
        raise LayoutError(
            "its rows are not those of a matrix", tensor=self.info.name, hint="--dequantize writes the matrix"
        )

    def decode(self, rows: range, cols: range) -> Array:
        import numpy as np

        from qkvinspect.weights.values import tile_of_values

        found = [
            tile_of_values(self._head(head), part, cols) for head, part in _by_head(rows, self.info.shape[self.axes[1]])
        ]
        return np.concatenate(found) if found else np.zeros((0, len(cols)), np.float32)

    def slack(self, rows: range, cols: range) -> None:
        """Nothing is rounded."""

    def python(self) -> tuple[str, ...]:
        return (f"weight = state_dict[{self.info.name!r}].permute{self.axes}.flatten(0, 1)",)

    def _head(self, head: int) -> StridedMatrix:
        across, dim, cols = self.axes
        shape, strides = self.info.shape, self.info.strides
        view = replace(
            self.info,
            shape=(shape[dim], shape[cols]),
            strides=(strides[dim], strides[cols]),
            offset=self.info.offset + head * strides[across],
        )
        return strided_matrix(view, "out_in")


def _by_head(rows: range, dim: int) -> Iterator[tuple[int, range]]:
    """Each head that some rows belong to, and which of its own rows they are."""
    at = 0
    while at < len(rows):
        head = rows[at] // dim
        stop = next((i for i in range(at, len(rows)) if rows[i] // dim != head), len(rows))
        part = rows[at:stop]
        yield head, range(part.start - head * dim, part.stop - head * dim, part.step)
        at = stop


def stack_of_heads(info: TensorInfo, axes: Axes) -> Weight:
    """The matrix [heads * head_dim, in] that a tensor of three axes holds."""
    encoding = HeadStack(info, axes)
    return Weight(info.name, encoding.shape, info.dtype, None, encoding)
