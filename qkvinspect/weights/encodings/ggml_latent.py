"""K and V of latent attention in GGUF: two tensors of three axes, which transformers has in one matrix.

llama.cpp's converter cuts ``kv_b_proj`` into ``attn_k_b`` [heads, in, rows of a head of K] and ``attn_v_b``
[heads, rows of a head of V, in] (conversion/deepseek.py, DeepseekV2Model.modify_tensors). Each may be quantised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import TensorInfo, contiguous_strides
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.weights.encodings.ggml_blocks import weight_of
from qkvinspect.weights.weight import StoredRows, Weight, plain

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

_K, _V, _BOTH = "attn_k_b.weight", "attn_v_b.weight", "attn_kv_b.weight"


@dataclass(frozen=True, slots=True)
class LatentHeads:
    """The matrix [heads * (rows of K + rows of V), in]: of each head the rows of K, then those of V.

    Attributes:
        k: [heads * in, rows of a head of K].
        v: [heads * rows of a head of V, in].
        heads: how many there are.
    """

    k: Weight
    v: Weight
    heads: int

    by_columns = False

    @property
    def label(self) -> str:
        kinds = " and ".join(dict.fromkeys(one.dtype.name for one in (self.k, self.v)))
        return f"{_K} and {_V} ({kinds}), those of K turned"

    @property
    def shape(self) -> tuple[int, int]:
        return self.heads * self._rows, self.v.shape[1]

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return (*self.k.stored, *self.v.stored)

    @property
    def computed_in(self) -> DType | None:
        same = self.k.dtype == self.v.dtype and self.k.dtype.kind == "float"
        return self.k.dtype if same else None

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:  # noqa: ARG002
        raise LayoutError(
            "its rows are not those of one stored matrix", tensor=self.k.name, hint="--dequantize writes the matrix"
        )

    def decode(self, rows: range, cols: range) -> Array:
        return self._gathered(rows, cols, slack=False)

    def slack(self, rows: range, cols: range) -> Array | None:
        """As each of the two tensors has it."""
        if not rows or (self.k.encoding is None and self.v.encoding is None):
            return None
        return self._gathered(rows, cols, slack=True)

    def python(self) -> tuple[str, ...]:
        k, v = (f"state_dict[{one.name!r}]" for one in (self.k, self.v))
        return (f"weight = torch.cat(({k}.transpose(1, 2), {v}), 1).flatten(0, 1)",)

    @property
    def _rows(self) -> int:
        """Rows of a head of K and of V together."""
        return self.k.shape[1] + self.v.shape[0] // self.heads

    def _gathered(self, rows: range, cols: range, *, slack: bool) -> Array:
        import numpy as np

        out = np.zeros((len(rows), len(cols)), np.float32)
        wanted = np.arange(rows.start, rows.stop, rows.step)
        head, row = np.divmod(wanted, self._rows)
        for one in np.unique(head):
            for of_k in (True, False):
                mine = np.flatnonzero((head == one) & ((row < self.k.shape[1]) == of_k))
                if mine.size:
                    out[mine] = self._of_head(int(one), row[mine], cols, of_k=of_k, slack=slack)
        return out

    def _of_head(self, head: int, rows: Array, cols: range, *, of_k: bool, slack: bool) -> Array:
        """Some rows of one head of K or V, of which the first and the last are read with all between them."""
        low, high = int(rows.min()), int(rows.max()) + 1
        if of_k:
            start = head * self.v.shape[1]
            found = _read(self.k, range(start + cols.start, start + cols.stop, cols.step), range(low, high), slack).T
        else:
            start = head * (self.v.shape[0] // self.heads) - self.k.shape[1]
            found = _read(self.v, range(start + low, start + high), cols, slack)
        return found[rows - low]


def _read(weight: Weight, rows: range, cols: range, slack: bool) -> Array:
    import numpy as np

    from qkvinspect.weights.values import rows_of_values

    if weight.encoding is None:
        matrix = weight.as_matrix("out_in").take(rows).transposed.take(cols)
        values = rows_of_values(matrix, [range(matrix.rows)]).T
        return np.abs(values) * (weight.dtype.rounding if weight.dtype.bits < 32 else 0) if slack else values
    found = weight.encoding.slack(rows, cols) if slack else weight.encoding.decode(rows, cols)
    return np.zeros((len(rows), len(cols)), np.float32) if found is None else found


def find(tensors: Mapping[str, TensorInfo]) -> Iterator[Weight]:
    """A weight for each layer whose K and V are such tensors, under the name that llama.cpp has for both in one."""
    for name, k in tensors.items():
        if not name.endswith(_K):
            continue
        both, v = name.removesuffix(_K) + _BOTH, tensors.get(name.removesuffix(_K) + _V)
        if v is None or both in tensors or (len(k.shape), len(v.shape)) != (3, 3):
            continue
        if k.shape[0] != v.shape[0] or k.shape[1] != v.shape[2]:
            continue
        of_k, of_v = _flat(k), _flat(v)
        shape = (k.shape[0] * (k.shape[2] + v.shape[1]), k.shape[1])
        why = of_k.no_values or of_v.no_values
        encoding = None if why else LatentHeads(of_k, of_v, k.shape[0])
        yield Weight(both, shape, k.dtype, k if why else None, encoding, why)


def _flat(info: TensorInfo) -> Weight:
    """Its first two axes as one."""
    shape = (info.shape[0] * info.shape[1], info.shape[2])
    flat = replace(info, shape=shape, strides=contiguous_strides(shape))
    return weight_of(flat) if info.dtype.block > 1 else plain(flat)
