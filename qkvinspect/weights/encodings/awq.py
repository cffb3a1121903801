"""AWQ: codes of 4 bits in int32 words along the output axis, in an order of their own.

``qweight`` [in, out / 8], ``qzeros`` [groups, out / 8], ``scales`` [groups, out]. The eight codes of a word are those
of the outputs 0, 2, 4, 6, 1, 3, 5, 7, the lowest bits first. The number is ``(code - zero) * scale``.
Source: AutoAWQ 0.2.9, utils/packing_utils.py (AWQ_ORDER), and GPTQModel 7.7, quantization/awq/utils, for ``gemm``.

AWQ moves scales from a weight into what comes before it (the norm of the layer, or v for the output projection): the
numbers are right for this file, but differ from those of the original by a factor for each column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.affine_codes import AffineCodes
from qkvinspect.weights.companions import (
    companion,
    expect_axes,
    expect_dtype,
    expect_float,
    expect_shape,
    lost,
    said_size,
    said_text,
)
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.affine import AffineBlock
    from qkvinspect.weights.reading import Array

_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""The position in a word of each of eight outputs' codes."""


@dataclass(frozen=True, slots=True)
class Awq(AffineCodes):
    """Codes in words along the outputs, with scales and zero points for groups of inputs.

    Its slack is that of the values as AWQ had scaled them.

    Attributes:
        group: inputs that share a scale.
    """

    codes: TensorInfo
    zeros: TensorInfo
    scales: TensorInfo
    shape: tuple[int, int]
    group: int

    by_columns = True
    computed_in = None

    @property
    def label(self) -> str:
        return f"AWQ 4 bit, groups of {self.group}"

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return self.codes, self.scales, self.zeros

    @property
    def _last(self) -> int:
        return 15

    def python(self) -> tuple[str, ...]:
        from qkvinspect.weights.unpacking import unpack_in_python

        rows, cols = self.shape
        lines: list[str] = []
        for name, info in (("codes", self.codes), ("zero", self.zeros)):
            lines += [f"{name} = state_dict[{info.name!r}]", *unpack_in_python(name, 4, rows)]
            lines.append(f"{name} = {name}.reshape(len({name}), -1, 8)[..., {list(_PLACES)}].flatten(1)")
        return (
            *lines,
            f"group = torch.arange({cols}) // {self.group}",
            f"weight = ((codes - zero[group]) * state_dict[{self.scales.name!r}].float()[group]).T",
        )

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        from qkvinspect.weights.cutting import not_cut, word_runs

        words = word_runs(runs, 4, self.shape[0])
        if words is None:
            raise not_cut(self.codes, runs, "a word holds the codes of eight rows")
        return (
            StoredRows("qweight", self.codes, words, 1),
            StoredRows("scales", self.scales, tuple(runs), 1),
            StoredRows("qzeros", self.zeros, words, 1),
        )

    def _block(self, rows: range, cols: range) -> AffineBlock:
        from qkvinspect.weights.affine import AffineBlock
        from qkvinspect.weights.packed_codes import groups_of

        groups = groups_of(cols, self.group)
        codes, zeros = _codes(self.codes, cols, rows).T, _codes(self.zeros, groups, rows).T
        return AffineBlock(codes, self._scales(rows, groups), self.scales.dtype, cols.start, self.group, zeros)

    def _scales(self, rows: range, groups: range) -> Array:
        """Float32 [rows, groups]."""
        import numpy as np

        from qkvinspect.weights.strided import strided_matrix
        from qkvinspect.weights.values import rows_of_values

        matrix = strided_matrix(self.scales, "out_in").transposed.take(rows).transposed
        return rows_of_values(matrix, [groups]).astype(np.float32).T


def _codes(info: TensorInfo, lines: range, outputs: range) -> Array:
    """Float32 [lines, outputs], the outputs in their own order."""
    import numpy as np

    from qkvinspect.weights.packed_codes import by_rows, packed_numbers, stepwise

    first, last = min(outputs[0], outputs[-1]), max(outputs[0], outputs[-1])
    hull = range(first // 8 * 8, last // 8 * 8 + 8)
    found = packed_numbers(by_rows(info), 4, lines, hull, stepwise(4))
    ordered = found.reshape(len(lines), -1, 8)[:, :, _PLACES].reshape(len(lines), -1)
    return ordered[:, np.arange(outputs.start, outputs.stop, outputs.step) - hull.start]


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that packed codes belong to; None where they are GPTQ's."""
    tensors = checkpoint.tensors
    codes = tensors[marker]
    prefix = marker.removesuffix("qweight")
    zeros, scales = tensors.get(f"{prefix}qzeros"), tensors.get(f"{prefix}scales")
    if said_text(checkpoint, "quant_method") != "awq":
        if zeros is None or scales is None or len(codes.shape) != 2 or len(zeros.shape) != 2:
            return None
        if zeros.shape[1] != codes.shape[1] or scales.shape[1:] == codes.shape[1:]:
            return None
    try:
        found = _awq(prefix, checkpoint)
    except LayoutError as error:
        return lost(f"{prefix}weight", codes, error)
    return Weight(f"{prefix}weight", found.shape, codes.dtype, None, found)


def _awq(prefix: str, checkpoint: Checkpoint) -> Awq:
    """Raises:
    LayoutError: the tensors do not belong together.
    """
    tensors = checkpoint.tensors
    version = (said_text(checkpoint, "version") or "gemm").lower()
    codes, zeros, scales = (companion(tensors, f"{prefix}{leaf}") for leaf in ("qweight", "qzeros", "scales"))
    if version != "gemm":
        raise LayoutError(f"is packed as AWQ's {version} has it, which is not decoded", tensor=codes.name)
    for info in (codes, zeros):
        expect_dtype(info, "int32")
    expect_float(scales)
    for info in (codes, zeros, scales):
        expect_axes(info, 2)
    bits = said_size(checkpoint, "bits", "w_bit")
    if bits not in (None, 4):
        raise LayoutError(f"holds {bits} bits, as the config says; AWQ is decoded for 4", tensor=codes.name)
    (wide, words), (groups, out) = codes.shape, scales.shape
    if out != words * 8:
        raise LayoutError("has another shape", tensor=scales.name, expected=[groups, words * 8], found=[groups, out])
    expect_shape(zeros, (groups, words))
    said = said_size(checkpoint, "group_size", "q_group_size")
    group = wide if groups == 1 else said or wide // groups
    if group * groups != wide:
        expected = f"{wide / max(group, 1):g} groups of {group}"
        raise LayoutError("has another shape", tensor=scales.name, expected=expected, found=list(scales.shape))
    return Awq(codes, zeros, scales, (out, wide), group)
