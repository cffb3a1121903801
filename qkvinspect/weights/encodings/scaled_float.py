"""Floats of eight bits or fewer with scales beside them: the number is the stored float times its scale.

``weight_scale`` (transformers, vLLM, compressed-tensors, ModelOpt) and ``weight_scale_inv`` (DeepSeek,
transformers' ``FP8Linear``) are both multiplied by, whatever the name of the second suggests: DeepSeek-V3,
inference/kernel.py, weight_dequant. ``scale_weight`` is what ComfyUI writes into single-file diffusion models.
One scale holds for the whole matrix, for a row, for a column, or for a block of rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.parsed import is_items, is_mapping, is_size
from qkvinspect.weights.strided import strided_matrix, strided_shape
from qkvinspect.weights.weight import StoredRows, Weight, plain

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

SCALES = ("weight_scale_inv", "weight_scale", "scale_weight")
"""Names of the scales beside ``weight``."""

MARKERS: frozenset[str] = frozenset(SCALES)

_USUAL_BLOCK = 128  # DeepSeek and transformers: one scale for 128 x 128 values
_LEAST_BLOCK = 16


@dataclass(frozen=True, slots=True)
class ScaledFloat:
    """A matrix of small floats and the matrix of their scales.

    Attributes:
        high, wide: rows and columns that share a scale.
    """

    codes: TensorInfo
    scales: TensorInfo
    high: int
    wide: int

    by_columns = False
    computed_in = None

    @property
    def label(self) -> str:
        rows, cols = self.shape
        if self.high >= rows and self.wide >= cols:
            of = "one scale"
        elif self.wide >= cols:
            of = "a scale for each row" if self.high == 1 else f"a scale for each {self.high} rows"
        elif self.high >= rows and self.wide == 1:
            of = "a scale for each column"
        else:
            of = f"a scale for each {self.high} x {self.wide} values"
        return f"{self.codes.dtype.name} with {of}"

    @property
    def shape(self) -> tuple[int, int]:
        return strided_shape(self.codes, "out_in")

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return self.codes, self.scales

    def decode(self, rows: range, cols: range) -> Array:
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore"):
            return self._codes(rows, cols) * self._scales(rows, cols)

    def slack(self, rows: range, cols: range) -> Array:
        """Half the distance to the next code; beyond the largest code there is none, so no limit."""
        import numpy as np

        from qkvinspect.weights.reading import half_steps

        return half_steps(self._codes(rows, cols), self.codes.dtype) * np.abs(self._scales(rows, cols))

    def python(self) -> tuple[str, ...]:
        rows, cols = self.shape
        lines = [f"scale = state_dict[{self.scales.name!r}].float()"]
        if self.scales.numel == 1:
            return (*lines, f"weight = state_dict[{self.codes.name!r}].float() * scale.reshape(())")
        across, down = (cols // self.wide or 1), (rows // self.high or 1)
        lines.append(f"scale = scale.reshape({ceil(rows / self.high)}, {ceil(cols / self.wide)})")
        if down > 1 and self.high > 1:
            lines.append(f"scale = scale.repeat_interleave({self.high}, 0)[:{rows}]")
        if across > 1 and self.wide > 1:
            lines.append(f"scale = scale.repeat_interleave({self.wide}, 1)[:, :{cols}]")
        return (*lines, f"weight = state_dict[{self.codes.name!r}].float() * scale")

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        rows, _ = self.shape
        codes, scales = (info.name.rpartition(".")[2] for info in self.stored)
        if self.high >= rows:
            return StoredRows(codes, self.codes, tuple(runs)), StoredRows(scales, self.scales, ())
        for run in runs:
            ends = (run.start % self.high, run.stop % self.high if run.stop != rows else 0)
            if any(ends) or (self.high > 1 and run.step != 1):
                raise LayoutError(
                    f"rows {run.start}:{run.stop} share scales with others: there is one for each {self.high} rows",
                    tensor=self.scales.name,
                    hint="--dequantize bfloat16 writes the numbers",
                )
        if self.high == 1:
            return StoredRows(codes, self.codes, tuple(runs)), StoredRows(scales, self.scales, tuple(runs))
        blocks = tuple(range(run.start // self.high, ceil(run.stop / self.high)) for run in runs)
        return StoredRows(codes, self.codes, tuple(runs)), StoredRows(scales, self.scales, blocks)

    def _codes(self, rows: range, cols: range) -> Array:
        from qkvinspect.weights.values import rows_of_values

        matrix = strided_matrix(self.codes, "out_in").transposed.take(cols).transposed
        return rows_of_values(matrix, [rows])

    def _scales(self, rows: range, cols: range) -> Array:
        """Float64, so that the product is exact where float32 would round it."""
        import numpy as np

        from qkvinspect.weights.values import rows_of_values

        down = np.arange(rows.start, rows.stop, rows.step) // self.high
        across = np.arange(cols.start, cols.stop, cols.step) // self.wide
        if not len(down) or not len(across):
            return np.ones((len(down), len(across)))
        # [n] is a column of scales, one for each block of rows
        grid = strided_matrix(self.scales, "out_in")
        used = grid.transposed.take(range(int(across[0]), int(across[-1]) + 1)).transposed
        table = rows_of_values(used, [range(int(down[0]), int(down[-1]) + 1)]).astype(np.float64)
        return table[down - down[0]][:, across - across[0]]


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that a tensor of scales belongs to; None where there is none that needs it."""
    tensors = checkpoint.tensors
    prefix, dot, _ = marker.rpartition(".")
    codes = tensors.get(f"{prefix}{dot}weight")
    if codes is None or not _small_float(codes):
        return None
    try:
        return replace(plain(codes), encoding=_scaled(codes, tensors[marker], _block(checkpoint)))
    except LayoutError as error:
        return replace(plain(codes), why=f"its scale {marker} does not fit: {error.message}")


def without_scale(tensors: Mapping[str, TensorInfo], scaled: Mapping[str, Weight]) -> dict[str, Weight]:
    """Small floats that have no scale beside them where others of the file have one: their numbers are lost."""
    leaves = {info.name.rpartition(".")[2] for weight in scaled.values() for info in weight.stored[1:]}
    leaf = next((leaf for leaf in SCALES if leaf in leaves), None)
    if leaf is None:
        return {}
    return {
        name: replace(plain(info), why=f"its scale is missing: {name.removesuffix('weight')}{leaf}")
        for name, info in tensors.items()
        if name not in scaled and name.endswith(".weight") and _small_float(info)
    }


def _small_float(info: TensorInfo) -> bool:
    return info.dtype.bits == 8 and info.dtype.kind == "float" and info.dtype.values == 1 and len(info.shape) > 1


def _block(checkpoint: Checkpoint) -> tuple[int, ...]:
    """What a config says of the rows and columns that share a scale; () where none does."""
    for config in checkpoint.configs:
        said = config.values.get("quantization_config")
        block = said.get("weight_block_size") if is_mapping(said) else None
        if is_items(block) and len(block) == 2:
            return tuple(size for size in block if is_size(size))
    return ()


def _scaled(codes: TensorInfo, scales: TensorInfo, said: tuple[int, ...]) -> ScaledFloat:
    """Raises:
    LayoutError: the scales cannot be shared out over the values.
    """
    rows, cols = strided_shape(codes, "out_in")
    if scales.dtype.kind != "float":
        raise LayoutError(f"it is {scales.dtype.name}, not a float")
    down, across = strided_shape(scales, "out_in") if scales.shape else (1, 1)
    high = _shared(rows, down, said[0] if len(said) == 2 else 0)
    wide = _shared(cols, across, said[1] if len(said) == 2 else 0)
    if high is None or wide is None:
        expected = f"[], [{rows}], [{rows}, 1] or one for each {_USUAL_BLOCK} x {_USUAL_BLOCK} values"
        raise LayoutError(f"its shape is {list(scales.shape)} where {expected} was expected")
    return ScaledFloat(codes, scales, high, wide)


def _shared(size: int, count: int, said: int) -> int | None:
    """How many values along one axis share a scale."""
    if count == 1:
        return max(size, 1)
    if count == size:
        return 1
    for block in (said, _USUAL_BLOCK):
        if block and count == ceil(size / block):
            return block
    block, left = divmod(size, max(count, 1))
    return block if not left and block >= _LEAST_BLOCK and block & (block - 1) == 0 else None
