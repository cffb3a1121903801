"""Floats of 4 or 8 bits with a scale of one byte for each 16 or 32 of a row: NVFP4, MXFP4 and MXFP8.

The floats are E2M1 or E4M3. NVFP4 has scales of float8_e4m3fn for each 16 and mostly one more for the whole; MXFP4 and
MXFP8 have powers of two (E8M0) for each 32. Who writes them how:

- compressed-tensors: ``weight_packed`` and, for NVFP4, ``weight_global_scale``, **by which it divides** (0.20,
  compressors/nvfp4).
- ModelOpt: ``weight``, ``weight_scale`` and ``weight_scale_2``, by which it multiplies (0.47,
  torch/quantization/qtensor/nvfp4_tensor.py); Quark's MXFP4 has the same names.
- gpt-oss: ``*_blocks`` and ``*_scales``.
- ComfyUI: ModelOpt's names, but **the high half of a byte first** and the scales **in tiles**; ``comfy_quant`` beside
  them says so (``comfy_quant.py``).
- MLX: words of 32 bits (``mlx_floats.py``).

Where nothing else is said the low half of a byte comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Literal

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.companions import (
    POWERS_OF_TWO,
    companion,
    expect_dtype,
    expect_one_run,
    expect_shape,
    is_mxfp8,
    lost,
    number_of,
    scale_of_all,
)
from qkvinspect.weights.cutting import block_runs, not_cut
from qkvinspect.weights.strided import strided_shape
from qkvinspect.weights.tiled_scales import TILE_ROWS
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.code_books import CodeBook
    from qkvinspect.weights.reading import Array

_BLOCKS = ("gate_up_proj_blocks", "down_proj_blocks", "blocks")

_E8M0, _E4M3 = DTYPES["float8_e8m0fnu"], DTYPES["float8_e4m3fn"]

MicroFloatKind = Literal["NVFP4", "MXFP4", "MXFP8"]

BITS: Mapping[MicroFloatKind, int] = {"NVFP4": 4, "MXFP4": 4, "MXFP8": 8}
_GROUPS: Mapping[MicroFloatKind, int] = {"NVFP4": 16, "MXFP4": 32, "MXFP8": 32}


@dataclass(frozen=True, slots=True)
class MicroFloat:
    """Small floats and a scale for each group of a row.

    Attributes:
        whole: the scale of all, or None.
        divides: whether that is divided by.
        high_first: whether the first number of a byte is in its upper half.
        tiled: whether the scales are in the order of ``weights/tiled_scales.py``.
        kept: what else belongs to the weight, and is stored with each part of it.
    """

    kind: MicroFloatKind
    codes: TensorInfo
    scales: TensorInfo
    whole: TensorInfo | None = None
    divides: bool = False
    high_first: bool = False
    tiled: bool = False
    kept: tuple[TensorInfo, ...] = ()

    by_columns = False
    computed_in = None

    @property
    def bits(self) -> int:
        """Of one number."""
        return BITS[self.kind]

    @property
    def group(self) -> int:
        """How many neighbours in a row share a scale."""
        return _GROUPS[self.kind]

    @property
    def label(self) -> str:
        by = "divided by a scale for all" if self.divides else "times a scale for all"
        parts = [f"{self.kind}, {self.bits} bit floats", f"groups of {self.group}"]
        return ", ".join([*parts, *([by] if self.whole else []), *(["scales in tiles"] if self.tiled else [])])

    @property
    def in_a_row(self) -> int:
        """How many numbers the last axis of the codes holds."""
        return self.codes.shape[-1] * self.codes.dtype.bits // self.bits

    @property
    def scales_shape(self) -> tuple[int, ...]:
        """What the scales should have, where they are not in tiles."""
        return *self.codes.shape[:-1], self.in_a_row // self.group

    @property
    def shape(self) -> tuple[int, int]:
        rows, words = strided_shape(self.codes, "out_in")
        return rows, words * self.codes.dtype.bits // self.bits

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return (self.codes, self.scales, *((self.whole,) if self.whole else ()), *self.kept)

    def decode(self, rows: range, cols: range) -> Array:
        from qkvinspect.weights.code_books import code_book
        from qkvinspect.weights.packed_codes import spanned

        return spanned(lambda rows, cols: self._scaled(code_book(self._book), rows, cols), rows, cols)

    def slack(self, rows: range, cols: range) -> Array:
        """Half the way to the farther neighbour; of the outermost numbers as far as a rounded scale cuts them off."""
        import numpy as np

        from qkvinspect.weights.packed_codes import spanned

        def found(rows: range, cols: range) -> Array:
            steps, ends = self._half_steps()
            within = self._scaled(steps, rows, cols)
            return within if self._powers else np.maximum(np.abs(within), self._scaled(ends, rows, cols, by=self._off))

        return np.abs(spanned(found, rows, cols))

    def python(self) -> tuple[str, ...]:
        from qkvinspect.weights.code_books import code_book

        codes, scale = f"state_dict[{self.codes.name!r}].flatten(1)", f"state_dict[{self.scales.name!r}]"
        if self.bits == 8:
            lines = [f"weight = {codes}.contiguous().view(torch.float8_e4m3fn).float()"]
        else:
            order = "codes >> 4, codes & 15" if self.high_first else "codes & 15, codes >> 4"
            lines = [
                f"numbers = torch.tensor({code_book(self._book).tolist()})",
                f"codes = {codes}.contiguous().view(torch.uint8)",
                f"weight = numbers[torch.stack(({order}), -1).flatten(1).long()]",
            ]
        if self.tiled:
            rows, cols = self.shape
            down, across = (size // each for size, each in zip(self.scales.shape, (TILE_ROWS, 4), strict=True))
            lines.append(f"scale = {scale}.view(torch.uint8).reshape({down}, {across}, 32, 4, 4)")
            lines.append("scale = scale.permute(0, 3, 2, 1, 4).flatten(0, 2).flatten(1)")
            lines.append(f"scale = scale[:{rows}, :{cols // self.group}].contiguous()")
            scale = "scale"
        if self._powers:
            lines.append(f"scale = torch.exp2({scale}.view(torch.uint8).float() - 127)")
        else:
            lines.append(f"scale = {scale}.view(torch.float8_e4m3fn).float()")
        if self.whole is not None:
            lines.append(
                f"scale = scale {'/' if self.divides else '*'} state_dict[{self.whole.name!r}].float().reshape(())"
            )
        return (*lines, f"weight = (weight.unflatten(1, (-1, {self.group})) * scale.flatten(1)[..., None]).flatten(1)")

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        """Every tensor's rows; of scales in tiles whole tiles only."""
        if self.tiled:
            rows = self.shape[0]
            tiles = block_runs(runs, TILE_ROWS, rows)
            if tiles is None:
                raise not_cut(self.scales, runs, f"their scales are in tiles of {TILE_ROWS} rows")
            of_scales = tuple(range(run.start * TILE_ROWS, run.stop * TILE_ROWS) for run in tiles)
        else:
            of_scales = tuple(runs)
        leaves = [info.name.rpartition(".")[2] for info in self.stored]
        taken = [tuple(runs), of_scales, *((),) * (len(leaves) - 2)]
        return [StoredRows(leaf, info, part) for leaf, info, part in zip(leaves, self.stored, taken, strict=True)]

    @property
    def _book(self) -> CodeBook:
        return "e4m3" if self.bits == 8 else "e2m1"

    @property
    def _powers(self) -> bool:
        """Whether the scales are powers of two."""
        return self.kind != "NVFP4"

    def _half_steps(self) -> tuple[Array, Array]:
        """Of each code half a step, and of the outermost, and of none else, how large they are.

        A power of two for the scale is the one below the largest number, or as far below it as the format's largest
        float allows (OCP Microscaling Formats 1.0, 6.3): what lies between that and the next power is cut off.
        """
        import numpy as np

        from qkvinspect.weights.code_books import code_book, half_steps_of

        sizes = np.abs(code_book(self._book))
        largest = np.nanmax(sizes)
        outermost = sizes == largest
        steps = half_steps_of(self._book)
        if self._powers:
            steps = np.where(outermost, 2 ** np.ceil(np.log2(largest)) - largest, steps).astype(np.float32)
        return steps, np.where(outermost, largest, 0).astype(np.float32)

    def _off(self, scales: Array) -> Array:
        """How far each scale may be from what it was rounded to."""
        import numpy as np

        from qkvinspect.weights.reading import half_steps

        return half_steps(scales, _E4M3).astype(np.float32)

    def _scaled(self, table: Array, rows: range, cols: range, by: Callable[[Array], Array] | None = None) -> Array:
        """What the codes stand for, times their scales or what ``by`` makes of these."""
        import numpy as np

        from qkvinspect.weights.packed_codes import by_groups, by_rows, packed_numbers

        found = packed_numbers(by_rows(self.codes), self.bits, rows, cols, table, high_first=self.high_first)
        by_groups(np.multiply, found, cols.start, self.group, self._scales(rows, cols, by))
        return found

    def _scales(self, rows: range, cols: range, by: Callable[[Array], Array] | None) -> Array:
        """Float32 [rows, groups], computed as the libraries do."""
        import numpy as np

        from qkvinspect.weights.packed_codes import by_rows, groups_of, stored_bytes
        from qkvinspect.weights.reading import numbers
        from qkvinspect.weights.tiled_scales import tiled_bytes

        groups = groups_of(cols, self.group)
        if self.tiled:
            data = tiled_bytes(self.scales, self.shape[1] // self.group, rows, groups)
        else:
            data = stored_bytes(by_rows(self.scales), rows, groups)
        (found,) = numbers(data, _E8M0 if self._powers else _E4M3)
        found = by(found) if by is not None else found
        if self.whole is None:
            return found
        whole = np.float32(number_of(self.whole))
        return found / whole if self.divides else found * whole


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that codes or their scales belong to; None where these are no such floats."""
    tensors = checkpoint.tensors
    prefix, dot, leaf = marker.rpartition(".")
    if leaf in _BLOCKS:
        return _of_blocks(marker, tensors)
    name, packed = f"{prefix}{dot}weight", leaf == "weight_packed"
    codes = tensors.get(f"{name}_packed" if packed else name)
    if codes is None or len(codes.shape) < 2:
        return None
    try:
        found = _micro_float(name, codes, tensors, packed=packed)
    except LayoutError as error:
        return lost(name, codes, error)
    return None if found is None else weight_of(name, found)


def weight_of(name: str, encoding: MicroFloat) -> Weight:
    """A weight of this name, with the axes of its codes."""
    codes = encoding.codes
    return Weight(name, (*codes.shape[:-1], encoding.in_a_row), codes.dtype, None, encoding)


def _micro_float(name: str, codes: TensorInfo, tensors: Mapping[str, TensorInfo], *, packed: bool) -> MicroFloat | None:
    """Raises:
    LayoutError: the scales cannot be shared out over the values.
    """
    if codes.dtype.name not in ("uint8", "float4_e2m1fn_x2"):
        scales = tensors.get(f"{name}_scale")
        return MicroFloat("MXFP8", codes, scales) if scales and is_mxfp8(codes, scales) else None
    scales = companion(tensors, f"{name}_scale")
    kind: MicroFloatKind = "MXFP4"
    whole = None
    if scales.dtype.name not in POWERS_OF_TWO:
        expect_dtype(scales, "float8_e4m3fn", *POWERS_OF_TWO)
        kind, whole = "NVFP4", scale_of_all(tensors, f"{name}_global_scale" if packed else f"{name}_scale_2")
    found = MicroFloat(kind, codes, scales, whole, packed and whole is not None)
    expect_groups(found)
    expect_shape(scales, found.scales_shape)
    expect_one_run(codes, scales)
    return found


def expect_groups(found: MicroFloat) -> None:
    """Raises:
    LayoutError: the rows are no whole groups, or there are none.
    """
    codes = found.codes
    if 0 in codes.shape or found.in_a_row % found.group:
        raise LayoutError(
            "has another shape", tensor=codes.name, expected=f"rows of groups of {found.group}", found=list(codes.shape)
        )


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
        expect_one_run(codes, scales)
    except LayoutError as error:
        return lost(name, codes, error)
    shape = (*codes.shape[:-2], prod(codes.shape[-2:]) * 2)
    return Weight(name, shape, codes.dtype, None, MicroFloat("MXFP4", codes, scales))
