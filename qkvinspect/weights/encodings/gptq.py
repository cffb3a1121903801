"""GPTQ: codes of 2 to 8 bits in int32 words down the input axis, scales and zero points for groups of inputs.

``qweight`` [in * bits / 32, out], ``qzeros`` [groups, out * bits / 32], ``scales`` [groups, out], and ``g_idx`` [in],
the group of each input, which act-order leaves unsorted. Code follows code, the lowest bits first. Version 1 stores
zero points less one, version 2 (``checkpoint_format: gptq_v2``) as they are. The number is ``(code - zero) * scale``.
Source: GPTQModel 7.7, nn_modules/qlinear (pack_original, dequantize_weight), utils/model_dequant.py.

GPTQ moves the values that are not yet rounded to make up for those that are: the original may lie farther from a
number than rounding alone would say.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.weights.affine_codes import AffineCodes
from qkvinspect.weights.companions import (
    companion,
    expect_axes,
    expect_dtype,
    expect_float,
    expect_shape,
    lost,
    said,
    said_size,
    said_text,
)
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.affine import AffineBlock
    from qkvinspect.weights.reading import Array

_VERSION_1 = ("gptq", "auto_round:auto_gptq")
_VERSION_2 = ("gptq_v2",)
_SAMPLE = 1 << 12


@dataclass(frozen=True, slots=True)
class Gptq(AffineCodes):
    """Codes in words, with scales and zero points for groups of inputs.

    Attributes:
        group: inputs that share a scale where ``order`` does not say otherwise.
        order: the group of each input.
        version: 1 or 2.
    """

    codes: TensorInfo
    zeros: TensorInfo
    scales: TensorInfo
    order: TensorInfo | None
    shape: tuple[int, int]
    bits: int
    group: int
    version: int

    by_columns = True
    computed_in = None

    @property
    def label(self) -> str:
        of = f"groups of {self.group}" if self.group < self.shape[1] else "a scale for each row"
        return f"GPTQ v{self.version}, {self.bits} bit, {of}"

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        order = (self.order,) if self.order is not None else ()
        return self.codes, self.scales, self.zeros, *order

    @property
    def _last(self) -> int:
        return (1 << self.bits) - 1

    def python(self) -> tuple[str, ...]:
        from qkvinspect.weights.unpacking import unpack_in_python

        rows, cols = self.shape
        lines = [
            f"codes = state_dict[{self.codes.name!r}].T",
            *unpack_in_python("codes", self.bits, cols),
            f"zero = state_dict[{self.zeros.name!r}]",
            *unpack_in_python("zero", self.bits, rows),
            f"scale = state_dict[{self.scales.name!r}].float()",
        ]
        if self.version == 1:
            lines.append(f"zero = zero + 1 & {(1 << self.bits) - 1}")
        group = f"torch.arange({cols}) // {self.group}"
        if self.order is not None:
            group = f"state_dict[{self.order.name!r}].long()"
        return (*lines, f"group = {group}", "weight = (codes - zero[group].T) * scale[group].T")

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        from qkvinspect.weights.cutting import not_cut, word_runs

        zeros = word_runs(runs, self.bits, self.shape[0])
        if zeros is None:
            raise not_cut(self.zeros, runs, "a word holds the zero points of other rows too")
        some = tuple(runs)
        found = [
            StoredRows("qweight", self.codes, some, 1),
            StoredRows("scales", self.scales, some, 1),
            StoredRows("qzeros", self.zeros, zeros, 1),
        ]
        if self.order is None:
            return found
        from qkvinspect.weights.grouping import check_every_group

        check_every_group(self.order, self.scales.shape[0])
        return [*found, StoredRows("g_idx", self.order, ())]

    def _block(self, rows: range, cols: range) -> AffineBlock:
        from qkvinspect.weights.affine import AffineBlock
        from qkvinspect.weights.grouping import groups_in_order
        from qkvinspect.weights.packed_codes import by_rows, packed_numbers, stepwise

        codes = packed_numbers(by_rows(self.codes).transposed, self.bits, rows, cols, stepwise(self.bits))
        groups, places = groups_in_order(self.order, cols, self.group, self.scales.shape[0])
        scales, zeros = self._scales(rows, groups), self.zero_points(rows, groups)
        return AffineBlock(codes, scales, self.scales.dtype, cols.start, self.group, zeros, places=places)

    def _scales(self, rows: range, groups: list[range]) -> Array:
        """Float32 [rows, groups]."""
        import numpy as np

        from qkvinspect.weights.strided import strided_matrix
        from qkvinspect.weights.values import rows_of_values

        matrix = strided_matrix(self.scales, "out_in").transposed.take(rows).transposed
        return rows_of_values(matrix, groups).astype(np.float32).T

    def zero_points(self, rows: range, groups: list[range]) -> Array:
        """Float32 [rows, groups]."""
        import numpy as np

        from qkvinspect.weights.packed_codes import by_rows, packed_numbers

        codes = np.arange(1 << self.bits) + (1 if self.version == 1 else 0)
        table = (codes & ((1 << self.bits) - 1)).astype(np.float32)
        hull = range(min(rows[0], rows[-1]), max(rows[0], rows[-1]) + 1)
        parts = [packed_numbers(by_rows(self.zeros), self.bits, run, hull, table) for run in groups]
        found = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return found.T[np.arange(rows.start, rows.stop, rows.step) - hull.start]


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that packed codes belong to; None where they are AWQ's."""
    tensors = checkpoint.tensors
    codes = tensors[marker]
    prefix = marker.removesuffix("qweight")
    name = f"{prefix}weight"
    zeros, scales = tensors.get(f"{prefix}qzeros"), tensors.get(f"{prefix}scales")
    method = (said_text(checkpoint, "quant_method") or "").lower()
    if method == "awq" or (zeros is not None and len(codes.shape) == 2 and zeros.shape[1:] == codes.shape[1:]):
        return None
    if scales is not None and len(codes.shape) == 2 and scales.shape[1:] != codes.shape[1:] and method != "gptq":
        return None
    try:
        found = _gptq(prefix, checkpoint)
    except LayoutError as error:
        return lost(name, codes, error)
    return Weight(name, found.shape, codes.dtype, None, found)


def _gptq(prefix: str, checkpoint: Checkpoint) -> Gptq:
    """Raises:
    LayoutError: the tensors do not belong together, or nothing says how zero points are stored.
    """
    tensors = checkpoint.tensors
    codes, zeros, scales = (companion(tensors, f"{prefix}{leaf}") for leaf in ("qweight", "qzeros", "scales"))
    order = tensors.get(f"{prefix}g_idx")
    for info in (codes, zeros):
        expect_dtype(info, "int32")
    expect_float(scales)
    for info in (codes, zeros, scales):
        expect_axes(info, 2)
    groups, out = scales.shape
    expect_shape(codes, (codes.shape[0], out))
    bits, wide = _bits(codes, zeros, scales, order, checkpoint)
    expect_shape(zeros, (groups, ceil(out * bits / 32)))
    if order is not None:
        expect_dtype(order, "int32", "int64")
    elif any(found.get("desc_act") is True for found in said(checkpoint)):
        companion(tensors, f"{prefix}g_idx")
    group = _group(wide, groups, scales, checkpoint, ordered=order is not None)
    found = Gptq(codes, zeros, scales, order, (out, wide), bits, group, 2)
    return replace(found, version=_version(found, checkpoint))


def _bits(
    codes: TensorInfo, zeros: TensorInfo, scales: TensorInfo, order: TensorInfo | None, checkpoint: Checkpoint
) -> tuple[int, int]:
    """How many bits a code has, and how many inputs there are."""
    out, words = scales.shape[1], codes.shape[0]
    fitting = [bits for bits in range(2, 9) if ceil(out * bits / 32) == zeros.shape[1]]
    if order is not None and len(order.shape) == 1:
        fitting = [bits for bits in fitting if ceil(order.shape[0] * bits / 32) == words]
    said_bits = said_size(checkpoint, "bits")
    if said_bits is not None and not any("dynamic" in found or "extra_config" in found for found in said(checkpoint)):
        if said_bits not in fitting:
            expected = f"{ceil(out * said_bits / 32)} words a row for {said_bits} bits, as the config says"
            raise LayoutError("has another shape", tensor=zeros.name, expected=expected, found=list(zeros.shape))
        fitting = [said_bits]
    if len(fitting) != 1:
        expected = f"words for {out} zero points of 2 to 8 bits"
        raise LayoutError("has another shape", tensor=zeros.name, expected=expected, found=list(zeros.shape))
    bits = fitting[0]
    form = said_text(checkpoint, "checkpoint_format", "format")
    if bits in (5, 6, 7) or (bits == 3 and form == "gptq_p"):
        raise LayoutError(f"holds {bits} bits in planes (gptq_p), which is not decoded", tensor=codes.name)
    wide = words * 32 // bits
    if order is not None:
        expect_shape(order, (wide,))
    return bits, wide


def _group(wide: int, groups: int, scales: TensorInfo, checkpoint: Checkpoint, *, ordered: bool) -> int:
    if groups == 1:
        return wide
    size = said_size(checkpoint, "group_size")
    if size is not None and ceil(wide / size) == groups and (wide % size == 0 or ordered):
        return size
    if size is None and wide % groups == 0:
        return wide // groups
    expected = f"{ceil(wide / size)} groups of {size}" if size else "groups of one size"
    raise LayoutError("has another shape", tensor=scales.name, expected=expected, found=list(scales.shape))


def _version(found: Gptq, checkpoint: Checkpoint) -> int:
    """Whether zero points are stored less one: as a config says, else as those of symmetric codes show."""
    form = said_text(checkpoint, "checkpoint_format", "packing_format")
    if form in _VERSION_2:
        return 2
    if form in _VERSION_1 or (form is None and said_text(checkpoint, "quant_method") == "gptq"):
        return 1
    wide = range(min(found.shape[0], _SAMPLE))
    sample = set(found.zero_points(wide, [range(1)]).ravel().tolist())
    middle = 1 << (found.bits - 1)
    if sample <= {middle, middle - 1} and len(sample) == 1:
        return 2 if sample == {middle} else 1
    raise LayoutError(
        "GPTQ stores zero points as they are (v2) or less one (v1)",
        tensor=found.zeros.name,
        expected="a config that says checkpoint_format",
        found=form or "none",
    )
