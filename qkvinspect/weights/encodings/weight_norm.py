"""Weight normalisation: the weight is ``g * v / ||v||``, the norm over every axis but one.

``weight_g`` and ``weight_v`` are what ``torch.nn.utils.weight_norm`` keeps;
``parametrizations.weight.original0`` and ``original1`` what ``torch.nn.utils.parametrizations.weight_norm`` does.
Along which axis g has its entries tells which norms are taken (``dim``; by default the first axis).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log2
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.strided import strided_matrix, strided_shape
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

_ROUNDINGS = 4  # the norm, the quotient, the product, and the stored product that it is compared with


@dataclass(frozen=True, slots=True)
class WeightNorm:
    """Directions v and lengths g.

    Attributes:
        axis: that of the matrix along which g has an entry each, 0 or 1; None where one length holds for all.
    """

    g: TensorInfo
    v: TensorInfo
    axis: int | None

    by_columns = False

    @property
    def label(self) -> str:
        of = {0: "each row", 1: "each column", None: "the whole"}[self.axis]
        return f"{self.v.dtype.name}, normalised: g * v / |v| for {of}"

    @property
    def shape(self) -> tuple[int, int]:
        return strided_shape(self.v, "out_in")

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return self.v, self.g

    def decode(self, rows: range, cols: range) -> Array:
        import numpy as np

        from qkvinspect.weights.values import tile_of_values

        values = tile_of_values(strided_matrix(self.v, "out_in"), rows, cols).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return values * self._factors(rows, cols)

    def slack(self, rows: range, cols: range) -> Array:
        """What torch may be off by: the norm, the quotient and the product are each rounded once to the dtype of v.

        The norm's sum of n squares is taken in float32 at least, of many short sums: it rounds about log2(n) times.
        """
        import numpy as np

        step = self.v.dtype.rounding
        height, width = self.shape
        summed = {0: width, 1: height, None: height * width}[self.axis]
        return np.abs(self.decode(rows, cols)) * (_ROUNDINGS * step + log2(max(summed, 1)) * min(step, 2.0**-24))

    def python(self) -> tuple[str, ...]:
        dim = "None" if self.axis is None else str(self.axis)
        names = f"state_dict[{self.v.name!r}], state_dict[{self.g.name!r}]"
        if self.axis is None:
            return (f"v, g = {names}", "weight = v * (g / v.norm())")
        return (f"weight = torch._weight_norm({names}, {dim})",)

    @property
    def computed_in(self) -> DType:
        return self.v.dtype

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        if self.axis != 0:
            raise LayoutError("its rows share lengths", tensor=self.g.name, hint="--dequantize float32 writes numbers")
        names = [info.name.rpartition(".")[2] for info in self.stored]
        return [StoredRows(name, info, tuple(runs)) for name, info in zip(names, self.stored, strict=True)]

    def _factors(self, rows: range, cols: range) -> Array:
        """G / |v|: [rows, 1], [1, columns] or [1, 1], float64."""
        if self.axis == 0:
            return _factors(self, rows)[:, None]
        every = _all_factors(self)  # each needs all rows: kept for the tiles to come
        return every[None, cols.start : cols.stop : cols.step] if self.axis == 1 else every[None, :]


@lru_cache(4)
def _all_factors(norm: WeightNorm) -> Array:
    rows, cols = norm.shape
    return _factors(norm, range(cols if norm.axis == 1 else rows))


def _factors(norm: WeightNorm, wanted: range) -> Array:
    """G / |v| of some rows or columns, along the axis of g; of the whole matrix where there is one g."""
    import numpy as np

    from qkvinspect.weights.values import rows_of_values, value_tiles

    v = strided_matrix(norm.v, "out_in")
    part = (v.transposed if norm.axis == 1 else v).take(wanted)
    squares = np.zeros(part.rows)
    for tile in value_tiles(part):
        (values,) = tile.read()
        squares[tile.rows] += np.square(values, dtype=np.float64).sum(axis=1)
    lengths = strided_matrix(norm.g, "out_in")
    g = rows_of_values(lengths, [range(lengths.rows)]).ravel().astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # a row of zeros has no direction, as torch finds
        if norm.axis is None:
            return g / np.sqrt(squares.sum(keepdims=True))
        return g[wanted.start : wanted.stop : wanted.step] / np.sqrt(squares)


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that a tensor of lengths belongs to; None where it is something else."""
    tensors = checkpoint.tensors
    if marker.endswith("original0"):
        head, dot, parameter = marker.removesuffix(".original0").rpartition("parametrizations.")
        name, other = f"{head}{parameter}", f"{marker.removesuffix('0')}1"
        if not dot or "." in parameter:
            return None
    else:
        name, other = marker.removesuffix("_g"), f"{marker.removesuffix('g')}v"
    g, v = tensors[marker], tensors.get(other)
    if v is None or name in tensors or len(v.shape) < 2 or v.dtype.kind != "float" or g.dtype.kind != "float":
        return None
    rows, cols = strided_shape(v, "out_in")
    axis = _axis(g, v)
    if axis == -1:
        text = f"{marker} has the shape {list(g.shape)} where {rows} or {cols} lengths were expected"
        return Weight(name, v.shape, v.dtype, None, why=text)
    return Weight(name, v.shape, v.dtype, None, WeightNorm(g, v, axis))


def _axis(g: TensorInfo, v: TensorInfo) -> int | None:
    """The axis of the matrix that g goes along; -1 where its shape is none that torch gives."""
    if g.numel == 1 and v.shape[0] != 1:
        return None
    ones = [1] * len(v.shape)
    for axis in (0, len(v.shape) - 1):
        shape = [*ones[:axis], v.shape[axis], *ones[axis + 1 :]]
        if list(g.shape) == shape:
            return -1 if axis and len(v.shape) > 2 else min(axis, 1)
    return -1
