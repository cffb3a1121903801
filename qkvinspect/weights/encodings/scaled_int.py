"""int8 with scales beside it: bitsandbytes' ``SCB`` and what compressed-tensors calls int-quantized.

bitsandbytes keeps the largest value of each row, of which 127 codes are made: ``weight * SCB / 127``
(0.50, functional.py, int8_vectorwise_dequant). compressed-tensors keeps the scales themselves, one for the whole, a
row or a group of columns, and zero points of the same form: ``(weight - weight_zero_point) * weight_scale``
(0.20, quantization/lifecycle/forward.py, dequantize). quanto's qint8 and torchao's Int8Tensor are the same under
names of their own (optimum-quanto 0.2.7, torchao 0.18, prototype/safetensors). What onnxruntime's quantisers write
is called ``int_codes`` by the reader of ONNX files, and may be uint8, or int32 as biases are, of any number of axes
(``(codes - zero point) * scale``: ONNX's Operators.md, DequantizeLinear).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.weights.companions import (
    expect_axes,
    expect_dtype,
    expect_float,
    expect_shape,
    lost,
    number_of,
    said_size,
)
from qkvinspect.weights.strided import strided_shape
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.affine import AffineBlock
    from qkvinspect.weights.reading import Array

_NAMES = {
    "SCB": ("weight", ""),
    "weight_scale": ("weight", "weight_zero_point"),
    "_weight_scale": ("_weight_qdata", "_weight_zero_point"),
    "_scale": ("_data", ""),
    "int_scale": ("int_codes", "int_zero_point"),
}
"""What lies beside scales of each name: the codes, and zero points."""

_ENDS = {"int8": (127, -128), "uint8": (255, 0), "int32": ((1 << 31) - 1, -(1 << 31))}
"""The highest and the lowest code of each dtype."""

_PER_CODE = 7.874015718698502e-3  # 1 / 127, as bitsandbytes writes it


@dataclass(frozen=True, slots=True)
class ScaledInteger:
    """A matrix of integers and its scales.

    Attributes:
        scales: [rows, groups], [rows], or one number.
        group: columns that share a scale.
        largest: whether the scales are the largest values (bitsandbytes), not steps.
        form: bitsandbytes' number that says in which order the codes lie.
    """

    codes: TensorInfo
    scales: TensorInfo
    zeros: TensorInfo | None
    group: int
    largest: bool
    form: TensorInfo | None = None

    by_columns = False
    computed_in = None

    @property
    def label(self) -> str:
        if self.largest:
            return "bitsandbytes int8 with a scale for each row"
        of = "one scale" if self.scales.numel == 1 else "a scale for each row"
        if self.group < self.shape[1]:
            of = f"a scale for each {self.group} values of a row"
        return f"{self.codes.dtype.name} with {of}" + (" and zero points" if self.zeros else "")

    @property
    def shape(self) -> tuple[int, int]:
        return strided_shape(self.codes, "out_in")

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return (self.codes, self.scales, *(info for info in (self.zeros, self.form) if info is not None))

    def decode(self, rows: range, cols: range) -> Array:
        from qkvinspect.weights.packed_codes import spanned

        return spanned(self._numbers, rows, cols)

    def slack(self, rows: range, cols: range) -> Array:
        """From the steps and the dtype of the scales."""
        from qkvinspect.weights.packed_codes import spanned

        return spanned(lambda rows, cols: self._block(rows, cols).slack(*self._ends) * self._unit, rows, cols)

    def python(self) -> tuple[str, ...]:
        cols = self.shape[1]
        lines = [f"scale = state_dict[{self.scales.name!r}].float().reshape({self._form})"]
        if self.largest:
            return (*lines, f"weight = state_dict[{self.codes.name!r}] * scale * {_PER_CODE!r}")
        lines.append(f"weight = state_dict[{self.codes.name!r}].float()")
        if self.group < cols:
            lines.append(f"scale = scale.repeat_interleave({self.group}, 1)")
        if self.zeros:
            zeros = f"state_dict[{self.zeros.name!r}].float().reshape({self._form})"
            repeated = f".repeat_interleave({self.group}, 1)" if self.group < cols else ""
            lines.append(f"weight = weight - {zeros}{repeated}")
        return (*lines, "weight = weight * scale")

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        whole = self.scales.numel == 1 and self.shape[0] != 1
        stored = [info for info in self.stored if info is not self.form]
        leaves = [info.name.rpartition(".")[2] for info in stored]
        if leaves[0] in ("_data", "int_codes"):  # parts of a parameter
            parameter = self.codes.name.rpartition(".")[0].rpartition(".")[2]
            leaves = [f"{parameter}.{leaf}" for leaf in leaves]
        taken = [tuple(runs), *[() if whole else tuple(runs)] * (len(leaves) - 1)]
        found = [StoredRows(leaf, info, part) for leaf, info, part in zip(leaves, stored, taken, strict=True)]
        return [*found, StoredRows("weight_format", self.form, ())] if self.form is not None else found

    @property
    def _form(self) -> str:
        if self.scales.numel == 1:
            return "()"
        axes = len(self.codes.shape)
        return f"{self.shape[0]}, -1" if axes == 2 else f"-1{', 1' * (axes - 1)}"

    @property
    def _ends(self) -> tuple[int, int]:
        """The highest and the lowest code."""
        return _ENDS[self.codes.dtype.name]

    @property
    def _unit(self) -> Array:
        """The constant factor of all scales."""
        import numpy as np

        return np.asarray(_PER_CODE if self.largest else 1, np.float32)

    def _numbers(self, rows: range, cols: range) -> Array:
        values = self._block(rows, cols).numbers()
        return values * self._unit if self.largest else values

    def _block(self, rows: range, cols: range) -> AffineBlock:
        import numpy as np

        from qkvinspect.weights.affine import AffineBlock
        from qkvinspect.weights.packed_codes import by_rows, stored_bytes

        kind = np.dtype(self.codes.dtype.name).newbyteorder("<")
        codes = stored_bytes(by_rows(self.codes), rows, cols).view(kind).astype(np.float32)
        scales = self._table(self.scales, rows, cols)
        zeros = self._table(self.zeros, rows, cols) if self.zeros is not None else 0.0
        return AffineBlock(codes, scales, self.scales.dtype, cols.start, self.group, zeros)

    def _table(self, info: TensorInfo, rows: range, cols: range) -> Array:
        """Float32 [rows or 1, groups]."""
        import numpy as np

        from qkvinspect.weights.packed_codes import groups_of
        from qkvinspect.weights.strided import strided_matrix
        from qkvinspect.weights.values import rows_of_values

        matrix = strided_matrix(info, "out_in")
        if info.numel == 1:
            return rows_of_values(matrix, [range(1)]).astype(np.float32)
        part = matrix.transposed.take(groups_of(cols, self.group)).transposed
        return rows_of_values(part, [rows]).astype(np.float32)


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight of int8 that a tensor of scales belongs to; None where there is none."""
    tensors = checkpoint.tensors
    prefix, dot, leaf = marker.rpartition(".")
    beside, zero_points = _NAMES[leaf]
    codes = tensors.get(f"{prefix}{dot}{beside}")
    held = ("int8", "uint8", "int32") if leaf == "int_scale" else ("int8",)
    if codes is None or codes.dtype.name not in held or len(codes.shape) < (1 if leaf == "int_scale" else 2):
        return None
    name = prefix if leaf in ("_scale", "int_scale") else f"{prefix}{dot}weight"
    try:
        zeros = tensors.get(f"{prefix}{dot}{zero_points}") if zero_points else None
        form = tensors.get(f"{prefix}{dot}weight_format") if leaf == "SCB" else None
        found = _scaled(codes, tensors[marker], zeros, checkpoint, largest=leaf == "SCB")
        if form is not None:
            found = replace(found, form=_by_rows(form))
    except LayoutError as error:
        return lost(name, codes, error)
    return Weight(name, codes.shape, codes.dtype, None, found)


def _by_rows(form: TensorInfo) -> TensorInfo:
    """Raises:
    LayoutError: the codes lie in the order of a GPU's kernel (bitsandbytes before 0.45, nn/modules.py).
    """
    expect_dtype(form, "uint8")
    number = number_of(form)
    if number:
        raise LayoutError("says that the codes lie in another order than by rows", tensor=form.name, found=int(number))
    return form


def _scaled(
    codes: TensorInfo, scales: TensorInfo, zeros: TensorInfo | None, checkpoint: Checkpoint, *, largest: bool
) -> ScaledInteger:
    """Raises:
    LayoutError: the scales cannot be shared out over the values.
    """
    if len(codes.shape) < 2 or not scales.name.endswith("int_scale"):
        expect_axes(codes, min(len(codes.shape), 2))
    rows, cols = strided_shape(codes, "out_in")
    if largest:
        expect_dtype(scales, "float32")
        expect_shape(scales, (rows,))
        return ScaledInteger(codes, scales, None, cols, largest=True)
    expect_float(scales)
    group = cols
    if scales.shape not in ((), (1,), (1, 1), (rows,), (rows, 1)):
        said = said_size(checkpoint, "group_size")
        group = said or cols // max(scales.shape[-1], 1)
        expected = "[], [1], " + f"[{rows}, 1] or a scale for each group of a row"
        if len(scales.shape) != 2 or scales.shape[0] != rows or not group or scales.shape[1] * group != cols:
            raise LayoutError("has another shape", tensor=scales.name, expected=expected, found=list(scales.shape))
    if zeros is not None:
        expect_dtype(zeros, codes.dtype.name)
        if zeros.numel != 1 or scales.numel != 1:
            expect_shape(zeros, scales.shape)
    return ScaledInteger(codes, scales, zeros, group, largest=False)
