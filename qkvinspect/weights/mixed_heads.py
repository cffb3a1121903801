"""The heads of a projection in another order and basis, or several of them as one: computed where it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Orientation, TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.weights.weight import Matrix, StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

Terms = tuple[tuple[int, "Array | None"], ...]
"""A head as a sum: of each term the head that it was, and what its rows are multiplied with; None: nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class MixedHeads:
    """Row ``head * width + row`` is that row of ``heads[head]``.

    Attributes:
        base: what the rows are read from.
        matrix: the same, with a row for each row of a head.
        sources: which rows of it each of its heads has.
        across: whether heads lie along the columns, as those of an output projection [out, in] do.
    """

    base: Weight
    matrix: Matrix = field(repr=False)
    sources: tuple[range, ...]
    heads: tuple[Terms, ...] = field(repr=False)
    across: bool = False

    @property
    def label(self) -> str:
        return f"heads of {self.base.name} in another basis"

    @property
    def shape(self) -> tuple[int, int]:
        from qkvinspect.weights.values import columns

        rows, cols = len(self.heads) * self._width, columns(self.matrix)
        return (cols, rows) if self.across else (rows, cols)

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return self.base.stored

    @property
    def by_columns(self) -> bool:
        return self.matrix.by_columns != self.across

    @property
    def computed_in(self) -> DType | None:
        return self.base.dtype if self.base.encoding is None else self.base.encoding.computed_in

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:  # noqa: ARG002
        raise LayoutError("its rows are computed and stored nowhere", tensor=self.base.name)

    def decode(self, rows: range, cols: range) -> Array:
        return self._rows(cols, rows).T if self.across else self._rows(rows, cols)

    def slack(self, rows: range, cols: range) -> None:
        """Nothing is rounded."""

    def python(self) -> tuple[str, ...]:
        raise LayoutError("its rows are computed and stored nowhere", tensor=self.base.name)

    @property
    def _width(self) -> int:
        return len(self.sources[0])

    def _rows(self, rows: range, cols: range) -> Array:
        import numpy as np

        found = [self._head(self.heads[head], some, cols) for head, some in _by_head(rows, self._width)]
        return np.concatenate(found) if found else np.zeros((0, len(cols)))

    def _head(self, terms: Terms, some: range, cols: range) -> Array:
        """Some rows of a head."""
        total: Array | None = None
        for source, turn in terms:
            if turn is None:
                own = self._values(self.sources[source][some.start : some.stop : some.step], cols)
            else:
                own = turn[some.start : some.stop : some.step] @ self._values(self.sources[source], cols)
            total = own if total is None else total + own
        assert total is not None
        return total

    def _values(self, rows: range, cols: range) -> Array:
        import numpy as np

        from qkvinspect.weights.values import tile_of_values

        return tile_of_values(self.matrix, rows, cols).astype(np.float64)


def mixed(
    base: Weight, orientation: Orientation, sources: tuple[range, ...], heads: tuple[Terms, ...], *, inputs: bool
) -> Weight:
    """The weight that such heads make, as [out, in]; one whose inputs heads are keeps its orientation.

    Args:
        sources: the rows of each head of ``base`` along its output axis; with ``inputs`` the columns.
        inputs: whether heads are inputs, as they are of an output projection.
    """
    matrix = base.as_matrix(orientation)
    encoding = MixedHeads(
        base, matrix.transposed if inputs else matrix, sources, heads, inputs and orientation == "out_in"
    )
    return Weight(base.name, encoding.shape, base.dtype, None, encoding)


def mixed_bias(base: Weight, sources: tuple[range, ...], heads: tuple[Terms, ...]) -> Weight:
    """The same of a bias."""
    found = mixed(base, "out_in", sources, heads, inputs=False)
    return Weight(base.name, found.shape[:1], base.dtype, None, found.encoding)


def _by_head(rows: range, width: int) -> Iterator[tuple[int, range]]:
    """Each head that some rows belong to, and which of its own rows they are."""
    at = 0
    while at < len(rows):
        head = rows[at] // width
        stop = at + 1
        while stop < len(rows) and rows[stop] // width == head:
            stop += 1
        part = rows[at:stop]
        yield head, range(part[0] - head * width, part[-1] - head * width + 1, max(part.step, 1))
        at = stop
