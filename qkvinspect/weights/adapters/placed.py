"""The factor B of one of several adapters that are joined into one: zero in the columns of the others.

Two modules whose weights are stacked have the stacked product: ``[B1 0; 0 B2] @ [A1; A2]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.strided import strided_matrix
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array


@dataclass(frozen=True, slots=True)
class PlacedFactor:
    """A matrix of ``width`` columns that holds a factor and zeros elsewhere.

    Attributes:
        up: the factor; None: all is zero.
        height: how many rows.
        first: where the factor's columns begin.
    """

    up: TensorInfo | None
    height: int
    first: int
    width: int
    dtype: DType

    by_columns = False
    label = "a factor beside others"

    @property
    def computed_in(self) -> DType:
        return self.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return (self.up,) if self.up is not None else ()

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:  # noqa: ARG002
        raise LayoutError("is in no tensor", tensor=self.up.name if self.up else self.label)

    def decode(self, rows: range, cols: range) -> Array:
        import numpy as np

        from qkvinspect.weights.values import rows_of_values

        found = np.zeros((len(rows), self.width), np.float64 if self.dtype.name == "float64" else np.float32)
        if self.up is not None and len(rows):
            values = rows_of_values(strided_matrix(self.up, "out_in"), [rows])
            found[:, self.first : self.first + values.shape[1]] = values
        return found[:, cols.start : cols.stop : cols.step]

    def slack(self, rows: range, cols: range) -> None:
        """Nothing is rounded."""

    def python(self) -> tuple[str, ...]:
        return ()


def placed_factor(up: TensorInfo, first: int, width: int) -> Weight:
    """The rows of a factor as they stand among the columns of all."""
    encoding = PlacedFactor(up, up.shape[0], first, width, up.dtype)
    return Weight(up.name, encoding.shape, up.dtype, None, encoding)


def no_factor(name: str, height: int, width: int, dtype: DType) -> Weight:
    """Rows to which nothing is added."""
    encoding = PlacedFactor(None, height, 0, width, dtype)
    return Weight(name, encoding.shape, dtype, None, encoding)
