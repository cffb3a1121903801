"""MLX: codes of 2 to 8 bits in uint32 words, row by row, with ``scales`` and ``biases`` for groups of a row.

The number is ``scale * code + bias``. Words hold code after code, the lowest bits first. Bits and group stand in
the config under ``quantization``, where a layer may have its own. The other modes have no biases and scales of one
byte: mxfp4 and mxfp8 in groups of 32 with powers of two, nvfp4 in groups of 16 with float8_e4m3fn.
Source: mlx 0.32, mlx.core.quantize and dequantize.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.parsed import is_mapping, is_size
from qkvinspect.weights.affine_codes import AffineCodes
from qkvinspect.weights.companions import companion, expect_axes, expect_float, expect_shape, lost, said
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.affine import AffineBlock
    from qkvinspect.weights.reading import Array

_BITS = (2, 3, 4, 5, 6, 8)
_GROUPS = (16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class MlxAffine(AffineCodes):
    """Codes in words, with a scale and a bias for each group of a row."""

    codes: TensorInfo
    scales: TensorInfo
    biases: TensorInfo
    bits: int
    group: int

    by_columns = False
    computed_in = None

    @property
    def label(self) -> str:
        return f"MLX affine {self.bits} bit, groups of {self.group}"

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.scales.shape[1] * self.group

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return self.codes, self.scales, self.biases

    @property
    def _last(self) -> int:
        return (1 << self.bits) - 1

    def python(self) -> tuple[str, ...]:
        from qkvinspect.weights.unpacking import unpack_in_python

        return (
            f"codes = state_dict[{self.codes.name!r}]",
            *unpack_in_python("codes", self.bits, self.shape[1]),
            f"scale = state_dict[{self.scales.name!r}].float().repeat_interleave({self.group}, 1)",
            f"bias = state_dict[{self.biases.name!r}].float().repeat_interleave({self.group}, 1)",
            "weight = codes * scale + bias",
        )

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        leaves = [info.name.rpartition(".")[2] for info in self.stored]
        return [StoredRows(leaf, info, tuple(runs)) for leaf, info in zip(leaves, self.stored, strict=True)]

    def _block(self, rows: range, cols: range) -> AffineBlock:
        from qkvinspect.weights.affine import AffineBlock
        from qkvinspect.weights.packed_codes import by_rows, packed_numbers, stepwise

        codes = packed_numbers(by_rows(self.codes), self.bits, rows, cols, stepwise(self.bits))
        scales, biases = (self._table(info, rows, cols) for info in (self.scales, self.biases))
        return AffineBlock(codes, scales, self.scales.dtype, cols.start, self.group, biases=biases)

    def _table(self, info: TensorInfo, rows: range, cols: range) -> Array:
        """Float32 [rows, groups]."""
        import numpy as np

        from qkvinspect.weights.packed_codes import groups_of
        from qkvinspect.weights.strided import strided_matrix
        from qkvinspect.weights.values import rows_of_values

        matrix = strided_matrix(info, "out_in").transposed.take(groups_of(cols, self.group)).transposed
        return rows_of_values(matrix, [rows]).astype(np.float32)


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that a tensor of biases belongs to; None where there is none."""
    tensors = checkpoint.tensors
    prefix = marker.removesuffix("biases")
    codes = tensors.get(f"{prefix}weight")
    if codes is None or codes.dtype.name != "uint32" or len(codes.shape) != 2:
        return None
    try:
        scales, biases = companion(tensors, f"{prefix}scales"), tensors[marker]
        for info in (scales, biases):
            expect_float(info)
            expect_axes(info, 2)
            expect_shape(info, (codes.shape[0], scales.shape[1]))
        bits, group = _form(prefix, codes, scales, checkpoint)
    except LayoutError as error:
        return lost(f"{prefix}weight", codes, error)
    found = MlxAffine(codes, scales, biases, bits, group)
    return Weight(codes.name, found.shape, codes.dtype, None, found)


def _form(prefix: str, codes: TensorInfo, scales: TensorInfo, checkpoint: Checkpoint) -> tuple[int, int]:
    """Bits and group: as the config says, for this layer before for all; else the only ones that fill the words.

    Raises:
        LayoutError: they do not fit, or several do.
    """
    words, groups = codes.shape[1], scales.shape[1]
    for found in said(checkpoint):
        own = found.get(prefix.removesuffix("."))
        for values in (own, found):
            bits, group = (values.get(key) if is_mapping(values) else None for key in ("bits", "group_size"))
            if not is_size(bits) or not is_size(group):
                continue
            if bits not in _BITS or group not in _GROUPS or groups * group * bits != words * 32:
                expected = f"{bits} bits in groups of {group}, as the config says"
                raise LayoutError(
                    "has another shape",
                    tensor=codes.name,
                    expected=expected,
                    found=f"{words} words and {groups} scales a row",
                )
            return bits, group
    fitting = [(bits, group) for bits in _BITS for group in _GROUPS if groups * group * bits == words * 32]
    if len(fitting) == 1:
        return fitting[0]
    either = " or ".join(f"{bits} bits in groups of {group}" for bits, group in fitting) or "none that MLX has"
    raise LayoutError(
        "its words may be read in several ways", tensor=codes.name, expected="quantization in config.json", found=either
    )
