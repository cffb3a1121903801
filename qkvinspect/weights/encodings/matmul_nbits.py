"""onnxruntime's MatMulNBits: codes of 2, 4 or 8 bits in blocks of a row, each with a scale and perhaps a zero point.

Codes [out, blocks, block * bits / 8] of bytes, the first code in the lowest bits; scales [out, blocks] or flat;
zero points packed likewise, each row filling whole bytes, or unpacked in the dtype of the scales; without any the
middle code stands for zero. The number is ``(code - zero) * scale``. The last block is filled up. ``g_idx``, which is
deprecated, gives the block of each input. How many inputs there are, bits and block are attributes of the operator,
which the reader of ONNX files hands on as ``matmul_nbits``.
Source: onnxruntime 1.32, the schema of com.microsoft.MatMulNBits; quantization/matmul_nbits_quantizer.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo, contiguous_strides
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.parsed import is_mapping, is_size
from qkvinspect.weights.affine_codes import AffineCodes
from qkvinspect.weights.companions import companion, expect_dtype, expect_float, expect_shape, lost
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.affine import AffineBlock
    from qkvinspect.weights.reading import Array

CODES = "nbits_codes"
SCALES = "nbits_scales"
ZEROS = "nbits_zero_points"
ORDER = "nbits_g_idx"
SAID = "matmul_nbits"
"""The key of a config under which the operator of each weight says inputs, bits and block."""

_BITS = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class MatMulNBits(AffineCodes):
    """Codes in blocks of a row.

    Attributes:
        codes: [out, bytes of a row].
        scales: [out, blocks].
        zeros: packed [out, bytes], or floats [out, blocks]; None: the middle code.
        order: the block of each input, where they do not go in order.
        block: inputs that share a scale where ``order`` does not say otherwise.
    """

    codes: TensorInfo
    scales: TensorInfo
    zeros: TensorInfo | None
    order: TensorInfo | None
    shape: tuple[int, int]
    bits: int
    block: int

    by_columns = False
    computed_in = None

    @property
    def label(self) -> str:
        return f"MatMulNBits {self.bits} bit, groups of {self.block}"

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return (self.codes, self.scales, *(info for info in (self.zeros, self.order) if info is not None))

    @property
    def _last(self) -> int:
        return (1 << self.bits) - 1

    def python(self) -> tuple[str, ...]:
        from qkvinspect.weights.unpacking import unpack_in_python

        rows, cols = self.shape
        blocks = self.scales.shape[1]
        lines = [
            f"codes = state_dict[{self.codes.name!r}].reshape({rows}, -1)",
            *unpack_in_python("codes", self.bits, self.codes.shape[1] * 8 // self.bits),
            f"scale = state_dict[{self.scales.name!r}].float().reshape({rows}, {blocks})",
        ]
        if self.zeros is None:
            lines.append(f"zero = torch.full(({rows}, {blocks}), {1 << self.bits - 1})")
        else:
            lines.append(f"zero = state_dict[{self.zeros.name!r}].reshape({rows}, -1)")
            if self.zeros.dtype.name == "uint8":
                lines += unpack_in_python("zero", self.bits, blocks)
        group = f"torch.arange({cols}) // {self.block}"
        if self.order is not None:
            group = f"state_dict[{self.order.name!r}].long()[:{cols}]"
        return (*lines, f"group = {group}", f"weight = (codes[:, :{cols}] - zero[:, group]) * scale[:, group]")

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        found: list[StoredRows] = []
        for info in self.stored:
            parameter, _, leaf = info.name.rpartition(".")
            taken = () if info is self.order else tuple(runs)
            found.append(StoredRows(f"{parameter.rpartition('.')[2]}.{leaf}", info, taken))
        return found

    def _block(self, rows: range, cols: range) -> AffineBlock:
        from qkvinspect.weights.affine import AffineBlock
        from qkvinspect.weights.grouping import groups_in_order
        from qkvinspect.weights.packed_codes import by_rows, packed_numbers, stepwise

        codes = packed_numbers(by_rows(self.codes), self.bits, rows, cols, stepwise(self.bits))
        blocks, places = groups_in_order(self.order, cols, self.block, self.scales.shape[1])
        scales, zeros = self._table(self.scales, rows, blocks), self._zeros(rows, blocks)
        return AffineBlock(codes, scales, self.scales.dtype, cols.start, self.block, zeros, places=places)

    def _zeros(self, rows: range, blocks: list[range]) -> Array | float:
        import numpy as np

        from qkvinspect.weights.packed_codes import by_rows, packed_numbers, stepwise

        if self.zeros is None:
            return float(1 << self.bits - 1)
        if self.zeros.dtype.name != "uint8":
            return self._table(self.zeros, rows, blocks)
        matrix = by_rows(self.zeros)
        return np.concatenate(
            [packed_numbers(matrix, self.bits, rows, run, stepwise(self.bits)) for run in blocks], axis=1
        )

    def _table(self, info: TensorInfo, rows: range, blocks: list[range]) -> Array:
        """Float32 [rows, blocks]."""
        import numpy as np

        from qkvinspect.weights.strided import strided_matrix
        from qkvinspect.weights.values import rows_of_values

        matrix = strided_matrix(info, "out_in").transposed
        parts = [rows_of_values(matrix.take(run).transposed, [rows]) for run in blocks]
        return np.concatenate(parts, axis=1).astype(np.float32)


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that the codes of a MatMulNBits belong to."""
    codes = checkpoint.tensors[marker]
    name = marker.removesuffix(f".{CODES}")
    try:
        found = _found(name, codes, checkpoint)
    except LayoutError as error:
        shape = _shape(name, checkpoint)
        return replace(lost(name, codes, error), shape=shape, info=codes if shape else None)
    return Weight(name, found.shape, codes.dtype, None, found)


def _found(name: str, codes: TensorInfo, checkpoint: Checkpoint) -> MatMulNBits:
    """Raises:
    LayoutError: the tensors do not belong together.
    """
    tensors = checkpoint.tensors
    shape, said = _shape(name, checkpoint), _said(name, checkpoint)
    bits, block = said.get("bits", 4), said.get("block_size", 0)
    if not shape or bits not in _BITS or block < 16 or block & (block - 1):
        found = f"K {said.get('K')}, N {said.get('N')}, {bits} bits in blocks of {block}"
        raise LayoutError("the operator's sizes cannot be", tensor=codes.name, found=found)
    if said.get("weight_prepacked"):
        raise LayoutError("is packed for one kind of GPU (weight_prepacked), which is not decoded", tensor=codes.name)
    rows, cols = shape
    blocks, zeros = ceil(cols / block), tensors.get(f"{name}.{ZEROS}")
    expect_dtype(codes, "uint8")
    codes = _as_rows(codes, rows, blocks * block * bits // 8)
    scales = companion(tensors, f"{name}.{SCALES}")
    expect_float(scales)
    if zeros is not None:
        expect_dtype(zeros, "uint8", scales.dtype.name)
        packed = ceil(blocks * bits / 8) if zeros.dtype.name == "uint8" else blocks
        zeros = _as_rows(zeros, rows, packed)
    order = tensors.get(f"{name}.{ORDER}")
    if order is not None:
        expect_dtype(order, "int32")
        expect_shape(order, (cols,), (blocks * block,))
    return MatMulNBits(codes, _as_rows(scales, rows, blocks), zeros, order, shape, bits, block)


def _said(name: str, checkpoint: Checkpoint) -> dict[str, int]:
    """The attributes of the operator."""
    for config in checkpoint.configs:
        every = config.values.get(SAID)
        found = every.get(name) if config.inside and is_mapping(every) else None
        if is_mapping(found):
            return {key: value for key, value in found.items() if is_size(value)}
    return {}


def _shape(name: str, checkpoint: Checkpoint) -> tuple[int, int] | tuple[()]:
    said = _said(name, checkpoint)
    rows, cols = said.get("N", 0), said.get("K", 0)
    return (rows, cols) if rows > 0 and cols > 0 else ()


def _as_rows(info: TensorInfo, rows: int, width: int) -> TensorInfo:
    """A tensor as [rows, width], however many axes it is stored with.

    Raises:
        LayoutError: it has another size.
    """
    if info.numel != rows * width or not info.contiguous or (info.shape[:1] != (rows,) and len(info.shape) != 1):
        raise LayoutError("has another shape", tensor=info.name, expected=[rows, width], found=list(info.shape))
    return replace(info, shape=(rows, width), strides=contiguous_strides((rows, width)))
