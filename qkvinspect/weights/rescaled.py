"""A matrix whose rows and columns are multiplied by numbers of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.weight import DecodedMatrix, Matrix, StoredRows

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array


@dataclass(frozen=True, slots=True)
class Rescaled:
    """The numbers of a matrix times a number for each row and one for each column.

    Attributes:
        label: that of the matrix.
        down: float64 [rows].
        across: float64 [columns].
        loose: float64 [rows], how far the numbers of each may be off relative to their size, as these factors were
            rounded or estimated.
    """

    label: str
    matrix: Matrix
    stored: tuple[TensorInfo, ...]
    down: Array
    across: Array
    loose: Array

    computed_in: DType | None = None

    @property
    def shape(self) -> tuple[int, int]:
        from qkvinspect.weights.values import columns

        return self.matrix.rows, columns(self.matrix)

    @property
    def by_columns(self) -> bool:
        return self.matrix.by_columns

    def decode(self, rows: range, cols: range) -> Array:
        from qkvinspect.weights.values import tile_of_values

        return tile_of_values(self.matrix, rows, cols) * self._factors(rows, cols)

    def slack(self, rows: range, cols: range) -> Array:
        import numpy as np

        loose = np.abs(self.decode(rows, cols)) * _some(self.loose, rows)[:, None]
        if not isinstance(self.matrix, DecodedMatrix):
            return loose
        found = self.matrix.transposed.take(cols).transposed.take(rows).slack()
        return loose if found is None else loose + found * np.abs(self._factors(rows, cols))

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        raise LayoutError(f"{len(runs)} runs of it are scaled", tensor=self.stored[0].name)

    def python(self) -> tuple[str, ...]:
        return ()

    @property
    def plain(self) -> bool:
        """Whether the numbers that are scaled are stored as such."""
        if isinstance(self.matrix, DecodedMatrix):
            return isinstance(self.matrix.encoding, Rescaled) and self.matrix.encoding.plain
        return True

    def _factors(self, rows: range, cols: range) -> Array:
        return _some(self.down, rows)[:, None] * _some(self.across, cols)[None]


def _some(numbers: Array, part: range) -> Array:
    return numbers[part.start : part.stop if part.stop >= 0 else None : part.step]
