"""A projection that is kept as one small matrix a head, each a tensor of its own, seen as one matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Literal

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.head_stack import HeadStack
from qkvinspect.weights.weight import Matrix, StoredRows, Weight, plain

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array


@dataclass(frozen=True, slots=True)
class HeadList:
    """The tensors of all heads, one behind the other along the axis that counts their rows.

    Attributes:
        infos: a tensor for each head, all of one shape and dtype.
        axis: that of the rows: 1 where each lies as [in, out].
    """

    infos: tuple[TensorInfo, ...]
    axis: Literal[0, 1] = 0

    by_columns = False

    @property
    def label(self) -> str:
        return f"{self.infos[0].dtype.name}, {len(self.infos)} tensors, one a head"

    @property
    def shape(self) -> tuple[int, int]:
        whole = shape_of_all(self.infos, self.axis)
        return whole[0], prod(whole[1:])

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return self.infos

    @property
    def computed_in(self) -> DType:
        return self.infos[0].dtype

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:  # noqa: ARG002
        raise LayoutError(
            "its rows are those of several tensors", tensor=self.infos[0].name, hint="--dequantize writes the matrix"
        )

    def decode(self, rows: range, cols: range) -> Array:
        import numpy as np

        from qkvinspect.weights.values import rows_of_values

        along, across = (rows, cols) if self.axis == 0 else (cols, rows)
        found: list[Array] = []
        for info, part in self._by_head(along):
            matrix: Matrix = plain(info).as_matrix("out_in" if self.axis == 0 else "in_out").take(part)
            found.append(rows_of_values(matrix.transposed.take(across).transposed, [range(len(part))]))
        values = np.concatenate(found) if found else np.zeros((0, len(across)), np.float32)
        return values if self.axis == 0 else values.T

    def slack(self, rows: range, cols: range) -> None:
        """Nothing is rounded."""

    def python(self) -> tuple[str, ...]:
        each = ", ".join(f"state_dict[{info.name!r}]" for info in self.infos)
        return (f"weight = torch.cat([{each}], {self.axis})",)

    def _by_head(self, rows: range) -> Iterator[tuple[TensorInfo, range]]:
        """Each head that some rows belong to, and which of its own rows they are."""
        height = self.infos[0].shape[self.axis]
        at = 0
        while at < len(rows):
            head = rows[at] // height
            last = (head + 1) * height - 1 if rows.step > 0 else head * height
            stop = min(len(rows), at + abs(last - rows[at]) // abs(rows.step) + 1)
            part = rows[at:stop]
            yield self.infos[head], range(part.start - head * height, part.stop - head * height, part.step)
            at = stop


def shape_of_all(infos: Sequence[TensorInfo], axis: int) -> tuple[int, ...]:
    """The shape of the tensors joined along an axis."""
    shape = list(infos[0].shape)
    shape[axis] *= len(infos)
    return tuple(shape)


def list_of_heads(name: str, infos: Sequence[TensorInfo], axis: Literal[0, 1]) -> Weight:
    """The matrix, or the vector of biases, that tensors of one shape and dtype are together."""
    encoding = HeadList(tuple(infos), axis)
    return Weight(name, shape_of_all(infos, axis), infos[0].dtype, None, encoding)


def heads_of(weight: Weight) -> int | None:
    """How many heads a weight is stored with, each apart: in tensors, or along an axis; None where it is not so."""
    if isinstance(weight.encoding, HeadList):
        return len(weight.encoding.infos)
    return weight.encoding.heads if isinstance(weight.encoding, HeadStack) else None
