"""4 bit floats (E2M1) two to a byte, the low half first, with a scale for each 16 (NVFP4) or 32 (MXFP4) of a row.

NVFP4 has scales of float8_e4m3fn and one more for the whole: compressed-tensors keeps ``weight_packed`` and
``weight_global_scale``, **by which it divides** (0.20, compressors/nvfp4); ModelOpt keeps ``weight`` and
``weight_scale_2``, by which it multiplies (0.47, torch/quantization/qtensor/nvfp4_tensor.py). MXFP4 has powers of two,
bytes of E8M0, and no scale for the whole: ``*_blocks`` and ``*_scales`` in gpt-oss, ``weight_packed`` in
compressed-tensors, ``weight`` in Quark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.companions import companion, expect_dtype, expect_shape, lost, number_of
from qkvinspect.weights.strided import strided_shape
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

_BLOCKS = ("gate_up_proj_blocks", "down_proj_blocks", "blocks")

_E8M0 = DTYPES["float8_e8m0fnu"]


@dataclass(frozen=True, slots=True)
class Float4:
    """Pairs of 4 bit floats and a scale for each group of a row.

    Attributes:
        whole: the scale of all, or None.
        divides: whether that is divided by.
        rows: how many rows of words there are, each with the scales of its groups.
    """

    kind: str
    codes: TensorInfo
    scales: TensorInfo
    whole: TensorInfo | None
    divides: bool
    group: int

    by_columns = False
    computed_in = None

    @property
    def label(self) -> str:
        by = "divided by a scale for all" if self.divides else "times a scale for all"
        return f"{self.kind}, 4 bit floats, groups of {self.group}" + (f", {by}" if self.whole else "")

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = strided_shape(self.codes, "out_in")
        return rows, cols * 2

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return (self.codes, self.scales, self.whole) if self.whole else (self.codes, self.scales)

    def decode(self, rows: range, cols: range) -> Array:
        from qkvinspect.weights.code_books import code_book
        from qkvinspect.weights.packed_codes import spanned

        return spanned(lambda rows, cols: self._scaled(code_book("e2m1"), rows, cols), rows, cols)

    def slack(self, rows: range, cols: range) -> Array:
        """Half the way to the farther neighbour."""
        import numpy as np

        from qkvinspect.weights.code_books import half_steps_of
        from qkvinspect.weights.packed_codes import spanned

        return np.abs(spanned(lambda rows, cols: self._scaled(half_steps_of("e2m1"), rows, cols), rows, cols))

    def python(self) -> tuple[str, ...]:
        from qkvinspect.weights.code_books import code_book

        codes, scale = f"state_dict[{self.codes.name!r}]", f"state_dict[{self.scales.name!r}]"
        lines = [
            f"numbers = torch.tensor({code_book('e2m1').tolist()})",
            f"codes = {codes}.flatten(1)",
            "codes = torch.stack((codes & 15, codes >> 4), -1).flatten(1).long()",
            f"weight = numbers[codes].reshape(len(codes), -1, {self.group})",
        ]
        if self.kind == "MXFP4":
            lines.append(f"scale = torch.exp2({scale}.view(torch.uint8).float() - 127)")
        else:
            lines.append(f"scale = {scale}.float()")
        if self.whole is not None:
            lines.append(
                f"scale = scale {'/' if self.divides else '*'} state_dict[{self.whole.name!r}].float().reshape(())"
            )
        return (*lines, "weight = (weight * scale.flatten(1)[..., None]).flatten(1)")

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        leaves = [info.name.rpartition(".")[2] for info in self.stored]
        taken = [tuple(runs), tuple(runs), ()]
        return [StoredRows(leaf, info, part) for leaf, info, part in zip(leaves, self.stored, taken, strict=False)]

    def _scaled(self, table: Array, rows: range, cols: range) -> Array:
        import numpy as np

        from qkvinspect.weights.packed_codes import by_groups, by_rows, packed_numbers

        found = packed_numbers(by_rows(self.codes), 4, rows, cols, table)
        by_groups(np.multiply, found, cols.start, self.group, self._scales(rows, cols))
        return found

    def _scales(self, rows: range, cols: range) -> Array:
        """Float32 [rows, groups], computed as the libraries do."""
        import numpy as np

        from qkvinspect.weights.packed_codes import by_rows, groups_of, stored_bytes
        from qkvinspect.weights.reading import numbers

        data = stored_bytes(by_rows(self.scales), rows, groups_of(cols, self.group))
        (found,) = numbers(data, _E8M0 if self.kind == "MXFP4" else self.scales.dtype)
        if self.whole is None:
            return found
        by = np.float32(number_of(self.whole))
        return found / by if self.divides else found * by


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that bytes or their scales belong to; None where these are no 4 bit floats."""
    tensors = checkpoint.tensors
    prefix, dot, leaf = marker.rpartition(".")
    if leaf in _BLOCKS:
        return _of_blocks(marker, tensors)
    packed = leaf == "weight_packed"
    name = f"{prefix}{dot}weight"
    codes = tensors.get(f"{name}_packed" if packed else name)
    if codes is None or codes.dtype.name not in ("uint8", "float4_e2m1fn_x2") or len(codes.shape) < 2:
        return None
    try:
        found = _float4(name, codes, tensors, packed=packed)
    except LayoutError as error:
        return lost(name, codes, error)
    return Weight(name, (*codes.shape[:-1], codes.shape[-1] * 2), codes.dtype, None, found)


def _float4(name: str, codes: TensorInfo, tensors: Mapping[str, TensorInfo], *, packed: bool) -> Float4:
    """Raises:
    LayoutError: the scales cannot be shared out over the values.
    """
    scales = companion(tensors, f"{name}_scale")
    if scales.dtype.name in ("uint8", "float8_e8m0fnu"):
        kind, group, whole = "MXFP4", 32, None
    else:
        expect_dtype(scales, "float8_e4m3fn", "float8_e8m0fnu", "uint8")
        kind, group = "NVFP4", 16
        whole = companion(tensors, f"{name}_global_scale" if packed else f"{name}_scale_2")
        expect_dtype(whole, "float32", "bfloat16", "float16")
        if whole.numel != 1:
            expect_shape(whole, (), (1,))
    cols = codes.shape[-1] * 2
    if cols % group or 0 in codes.shape:
        raise LayoutError(
            "has another shape", tensor=codes.name, expected=f"rows of groups of {group}", found=list(codes.shape)
        )
    expect_shape(scales, (*codes.shape[:-1], cols // group))
    if not codes.contiguous or not scales.contiguous:
        raise LayoutError("does not lie in one run of bytes", tensor=codes.name)
    return Float4(kind, codes, scales, whole, packed, group)


def _of_blocks(marker: str, tensors: Mapping[str, TensorInfo]) -> Weight | None:
    """gpt-oss: [..., groups, 16] bytes and [..., groups] scales."""
    codes = tensors[marker]
    scales = tensors.get(f"{marker.removesuffix('blocks')}scales")
    name = marker.removesuffix("_blocks").removesuffix(".blocks")
    if codes.dtype.name != "uint8" or len(codes.shape) < 3 or codes.shape[-1] != 16 or 0 in codes.shape:
        return None
    try:
        if scales is None:
            companion(tensors, f"{marker.removesuffix('blocks')}scales")
            return None
        expect_dtype(scales, "uint8", "float8_e8m0fnu")
        expect_shape(scales, codes.shape[:-1])
        if not codes.contiguous or not scales.contiguous:
            raise LayoutError("does not lie in one run of bytes", tensor=codes.name)
    except LayoutError as error:
        return lost(name, codes, error)
    shape = (*codes.shape[:-2], prod(codes.shape[-2:]) * 2)
    return Weight(name, shape, codes.dtype, None, Float4("MXFP4", codes, scales, None, divides=False, group=32))
