"""compressed-tensors' packed integers: codes of 1 to 8 bits in int32 words, row by row.

``weight_packed`` [out, words], ``weight_scale`` [out, groups], ``weight_zero_point`` (packed too, down the rows),
``weight_shape``, and with act-order ``weight_g_idx``. A code is the signed integer plus half of its range.
Since 0.15 or so code follows code without gaps; before, a word held whole codes only, which differs for 3, 5, 6 and 7
bits and is told by the number of words. The number is ``(code - zero point) * scale``.
Source: compressed-tensors 0.20, compressors/pack_quantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.parsed import is_size
from qkvinspect.weights.affine_codes import AffineCodes
from qkvinspect.weights.companions import (
    companion,
    expect_axes,
    expect_dtype,
    expect_float,
    expect_shape,
    lost,
    schemes,
    small_integers,
)
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.affine import AffineBlock
    from qkvinspect.weights.reading import Array


@dataclass(frozen=True, slots=True)
class PackedIntegers(AffineCodes):
    """Codes in words, with scales and maybe zero points.

    Attributes:
        group: columns that share a scale.
        order: the group of each column, where that is not the column's place.
    """

    codes: TensorInfo
    scales: TensorInfo
    zeros: TensorInfo | None
    order: TensorInfo | None
    sizes: TensorInfo
    shape: tuple[int, int]
    bits: int
    group: int

    by_columns = False
    computed_in = None

    @property
    def label(self) -> str:
        of = f"groups of {self.group}" if self.group < self.shape[1] else "a scale for each row"
        of = "one scale" if self.scales.numel == 1 else of
        more = (", zero points" if self.zeros else "") + (", act-order" if self.order else "")
        return f"compressed-tensors {self.bits} bit integers, {of}{more}"

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        maybe = [info for info in (self.zeros, self.order) if info is not None]
        return self.codes, self.scales, *maybe, self.sizes

    @property
    def _last(self) -> int:
        return (1 << self.bits) - 1

    def python(self) -> tuple[str, ...]:
        from qkvinspect.weights.unpacking import unpack_in_python

        rows, cols = self.shape
        zero = 1 << (self.bits - 1)
        lines = [
            f"codes = state_dict[{self.codes.name!r}]",
            *unpack_in_python("codes", self.bits, cols),
            f"scale = state_dict[{self.scales.name!r}].float()",
        ]
        groups = f"torch.arange({cols}) // {self.group}"
        if self.order is not None:
            groups = f"state_dict[{self.order.name!r}].long()"
        lines.append(f"group = {groups}")
        if self.zeros is None:
            lines.append(f"zero = torch.full_like(scale, {zero})")
        elif self.zeros.dtype.name == "int8":
            lines.append(f"zero = state_dict[{self.zeros.name!r}].float() + {zero}")
        else:
            lines.append(f"zero = state_dict[{self.zeros.name!r}].T.contiguous()")
            lines += [*unpack_in_python("zero", self.bits, rows), "zero = zero.T"]
        return (*lines, "weight = (codes - zero[:, group]) * scale[:, group]")

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        from qkvinspect.weights.cutting import not_cut, word_runs

        rows, cols = self.shape
        some = tuple(runs)
        size = self.sizes.dtype.bits // 8
        made = b"".join(side.to_bytes(size, "little") for side in (sum(map(len, runs)), cols))
        found = [
            StoredRows("weight_packed", self.codes, some),
            StoredRows("weight_scale", self.scales, () if self.scales.numel == 1 else some),
            StoredRows("weight_shape", self.sizes, (), made=made),
        ]
        if self.zeros is not None:
            words = some if self.zeros.dtype.name == "int8" else word_runs(runs, self.bits, rows)
            if words is None:
                raise not_cut(self.zeros, runs, "a word holds the zero points of other rows too")
            found.append(StoredRows("weight_zero_point", self.zeros, () if self.zeros.numel == 1 else words))
        if self.order is None:
            return found
        from qkvinspect.weights.grouping import check_every_group

        check_every_group(self.order, 1 if self.scales.numel == 1 else ceil(cols / self.group))
        return [*found, StoredRows("weight_g_idx", self.order, ())]

    def _block(self, rows: range, cols: range) -> AffineBlock:
        from qkvinspect.weights.affine import AffineBlock
        from qkvinspect.weights.grouping import checked_groups
        from qkvinspect.weights.packed_codes import by_rows, packed_numbers, stepwise

        codes = packed_numbers(by_rows(self.codes), self.bits, rows, cols, stepwise(self.bits))
        scales = _part(self.scales, rows, self._groups(cols))
        zeros = self._zeros(rows, cols) if self.zeros is not None else float(1 << (self.bits - 1))
        places = None if self.order is None else checked_groups(self.order, cols, scales.shape[1])
        return AffineBlock(codes, scales, self.scales.dtype, cols.start, self.group, zeros, places=places)

    def _groups(self, cols: range) -> range:
        """The groups that are read: all, where their order is not that of the columns."""
        from qkvinspect.weights.packed_codes import groups_of

        return groups_of(cols, self.group) if self.order is None else range(ceil(self.shape[1] / self.group))

    def _zeros(self, rows: range, cols: range) -> Array:
        import numpy as np

        from qkvinspect.weights.packed_codes import by_rows, packed_numbers, stepwise

        assert self.zeros is not None
        if self.zeros.dtype.name == "int8":
            return _part(self.zeros, rows, self._groups(cols)) + np.float32(1 << (self.bits - 1))
        lines = by_rows(self.zeros).transposed
        hull = range(rows[0], rows[-1] + 1) if rows.step > 0 else range(rows[-1], rows[0] + 1)
        found = packed_numbers(lines, self.bits, self._groups(cols), hull, stepwise(self.bits))
        return found.T[np.arange(rows.start, rows.stop, rows.step) - hull.start]


def _part(info: TensorInfo, rows: range, groups: range) -> Array:
    """Float32 [rows or 1, groups]."""
    import numpy as np

    from qkvinspect.weights.strided import strided_matrix
    from qkvinspect.weights.values import rows_of_values

    matrix = strided_matrix(info, "out_in")
    if info.numel == 1:
        return rows_of_values(matrix, [range(1)]).astype(np.float32)
    return rows_of_values(matrix.transposed.take(groups).transposed, [rows]).astype(np.float32)


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that packed integers belong to; None where they are no integers."""
    tensors = checkpoint.tensors
    name, codes = marker.removesuffix("_packed"), tensors[marker]
    if codes.dtype.name not in ("int32", "uint32", "int64") or not marker.endswith("weight_packed"):
        return None
    try:
        found = _packed(name, checkpoint)
    except LayoutError as error:
        return lost(name, codes, error)
    return Weight(name, found.shape, codes.dtype, None, found)


def _packed(name: str, checkpoint: Checkpoint) -> PackedIntegers:
    """Raises:
    LayoutError: the tensors do not belong together.
    """
    tensors = checkpoint.tensors
    codes, sizes, scales = (companion(tensors, f"{name}_{leaf}") for leaf in ("packed", "shape", "scale"))
    expect_dtype(codes, "int32")
    expect_axes(codes, 2)
    expect_float(scales)
    rows, cols = small_integers(sizes, 2)
    if rows != codes.shape[0] or cols < 1:
        raise LayoutError(
            "says another shape", tensor=sizes.name, expected=f"{codes.shape[0]} rows", found=[rows, cols]
        )
    bits = _bits(codes, cols, checkpoint)
    zeros, order = tensors.get(f"{name}_zero_point"), tensors.get(f"{name}_g_idx")
    groups = 1 if scales.numel == 1 else scales.shape[-1] if len(scales.shape) == 2 else 1
    group = _group(scales, groups, cols, checkpoint)
    strategies = {scheme.get("strategy") for scheme in schemes(checkpoint)} - {None}
    if scales.numel != 1 or rows == 1 or (strategies and "tensor" not in strategies):
        expect_shape(scales, (rows, groups), *([(rows,)] if groups == 1 else []))
    if order is not None:
        expect_dtype(order, "int32", "int64")
        expect_shape(order, (cols,))
    if zeros is not None:
        _check_zeros(zeros, rows, groups, bits, scales)
    elif any(scheme.get("symmetric") is False for scheme in schemes(checkpoint)):
        companion(tensors, f"{name}_zero_point")
    return PackedIntegers(codes, scales, zeros, order, sizes, (rows, cols), bits, group)


def _check_zeros(zeros: TensorInfo, rows: int, groups: int, bits: int, scales: TensorInfo) -> None:
    expect_dtype(zeros, "int32", "int8")
    if zeros.dtype.name == "int8":
        expect_shape(zeros, scales.shape)
    else:
        expect_shape(zeros, (ceil(rows * bits / 32), groups))


def _bits(codes: TensorInfo, cols: int, checkpoint: Checkpoint) -> int:
    """How many bits fill the words; what a config says decides between those that do."""
    words = codes.shape[1]
    fitting = [bits for bits in range(1, 9) if ceil(cols * bits / 32) == words]
    said = {bits for scheme in schemes(checkpoint) if is_size(bits := scheme.get("num_bits"))}
    found = [bits for bits in fitting if bits in said] if said else fitting
    if len(found) == 1:
        return found[0]
    sparse = [bits for bits in (3, 5, 6, 7) if ceil(cols / (32 // bits)) == words and (bits in said or not said)]
    if sparse and not found:
        raise LayoutError(
            f"holds whole codes of {sparse[0]} bits in each word, which is not decoded", tensor=codes.name
        )
    expected = " or ".join(f"{ceil(cols * bits / 32)} words for {bits} bits" for bits in sorted(said or {4, 8}))
    raise LayoutError(
        "has another shape",
        tensor=codes.name,
        expected=f"a row of {cols} values in {expected}",
        found=list(codes.shape),
    )


def _group(scales: TensorInfo, groups: int, cols: int, checkpoint: Checkpoint) -> int:
    if groups == 1:
        return cols
    said = {size for scheme in schemes(checkpoint) if is_size(size := scheme.get("group_size"))}
    fitting = {size for size in said if ceil(cols / size) == groups}
    if len(fitting) == 1:
        return fitting.pop()
    if not fitting and groups and cols % groups == 0 and not said:
        return cols // groups
    expected = (
        " or ".join(f"{ceil(cols / size)} scales a row for groups of {size}" for size in sorted(said))
        or "groups of one size"
    )
    raise LayoutError("has another shape", tensor=scales.name, expected=expected, found=list(scales.shape))
