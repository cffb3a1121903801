"""Spectral normalisation: the weight is ``W / sigma``, where sigma = u . (W v) is about the greatest singular value.

``weight_orig``, ``weight_u`` and ``weight_v`` are what ``torch.nn.utils.spectral_norm`` keeps, as SAGAN has them. A
model in evaluation divides by this sigma; in training it moves u and v a step nearer to the singular vectors first.
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

_ROUNDINGS = 4  # W v, its product with u, the quotient, and the stored quotient that it is compared with


@dataclass(frozen=True, slots=True)
class SpectralNorm:
    """A matrix, and what it is divided by is made of."""

    original: TensorInfo
    u: TensorInfo
    v: TensorInfo

    by_columns = False

    @property
    def label(self) -> str:
        return f"{self.original.dtype.name}, divided by its spectral norm: W / (u . W v)"

    @property
    def shape(self) -> tuple[int, int]:
        return strided_shape(self.original, "out_in")

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return self.original, self.u, self.v

    def decode(self, rows: range, cols: range) -> Array:
        import numpy as np

        from qkvinspect.weights.values import tile_of_values

        values = tile_of_values(strided_matrix(self.original, "out_in"), rows, cols).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):  # a matrix of zeros has no direction, as torch finds
            return values / np.float64(_sigma(self)[0])

    def slack(self, rows: range, cols: range) -> Array:
        """What torch may be off by: each product, the quotient and what is stored are rounded once to the dtype.

        Sums are taken in float32 at least; what cancels out in them makes the rounding count for more.
        """
        import numpy as np

        step, (height, width) = self.original.dtype.rounding, self.shape
        sigma, of_parts = _sigma(self)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = _ROUNDINGS * step + log2(max(height * width, 1)) * min(step, 2.0**-24)
            return np.abs(self.decode(rows, cols)) * share * np.divide(of_parts, abs(sigma))

    def python(self) -> tuple[str, ...]:
        names = ", ".join(f"state_dict[{info.name!r}]" for info in self.stored)
        return f"w, u, v = {names}", "weight = w / torch.dot(u, torch.mv(w.flatten(1), v))"

    @property
    def computed_in(self) -> DType:
        return self.original.dtype

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:  # noqa: ARG002
        raise LayoutError(
            "all its rows are divided by one number", tensor=self.u.name, hint="--dequantize float32 writes numbers"
        )


@lru_cache(4)
def _sigma(norm: SpectralNorm) -> tuple[float, float]:
    """(u . W v, the same of the sizes of all that is added up): kept for the tiles to come."""
    import numpy as np

    from qkvinspect.weights.values import value_tiles

    u, v = _vector(norm.u), _vector(norm.v)
    sigma = of_parts = 0.0
    for tile in value_tiles(strided_matrix(norm.original, "out_in")):
        (values,) = tile.read()
        exact = values.astype(np.float64)
        sigma += float(u[tile.rows] @ exact @ v[tile.cols])
        of_parts += float(np.abs(u[tile.rows]) @ np.abs(exact) @ np.abs(v[tile.cols]))
    return sigma, of_parts


def _vector(info: TensorInfo) -> Array:
    import numpy as np

    from qkvinspect.weights.values import rows_of_values

    entries = strided_matrix(info, "out_in")
    return rows_of_values(entries, [range(entries.rows)]).ravel().astype(np.float64)


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that an original belongs to; None where it is one of something else, as of pruning."""
    tensors, name = checkpoint.tensors, marker.removesuffix("_orig")
    original, u, v = tensors[marker], tensors.get(f"{name}_u"), tensors.get(f"{name}_v")
    if u is None or v is None or name in tensors or f"{name}_mask" in tensors or len(original.shape) < 2:
        return None
    if any(info.dtype.kind != "float" for info in (original, u, v)):
        return None
    if (u.shape, v.shape) != tuple((size,) for size in strided_shape(original, "out_in")):
        text = f"{u.name} {list(u.shape)} and {v.name} {list(v.shape)} are no vectors of its rows and columns"
        return Weight(name, original.shape, original.dtype, None, why=text)
    return Weight(name, original.shape, original.dtype, None, SpectralNorm(original, u, v))
