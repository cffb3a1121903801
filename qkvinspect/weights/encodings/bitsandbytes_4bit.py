"""bitsandbytes' 4 bit floats, NF4 and FP4: codes two to a byte, the high half first, and the largest of each block.

Beside ``weight`` lie ``weight.absmax``, ``weight.quant_map`` and ``weight.quant_state.bitsandbytes__nf4`` (or
``__fp4``), whose bytes are JSON: the shape, the block and the dtype. With double quantisation ``absmax`` itself holds
codes of 8 bits: its number is ``nested_quant_map[code] * nested_absmax[block] + nested_offset``.
Source: bitsandbytes 0.50, functional.py, QuantState and dequantize_4bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, isfinite
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.parsed import is_items, is_size
from qkvinspect.weights.companions import (
    companion,
    expect_dtype,
    expect_shape,
    lost,
    numbers_of,
    packed_json,
)
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.code_books import CodeBook
    from qkvinspect.weights.reading import Array

_STATE = "quant_state.bitsandbytes__"

_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_NESTED_BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096)
_MAX_STATE = 1 << 12


@dataclass(frozen=True, slots=True)
class NestedScales:
    """How the largest values of the blocks are themselves quantised.

    Attributes:
        offset: added to each of them.
    """

    absmax: TensorInfo
    quant_map: TensorInfo
    block: int
    offset: float


@dataclass(frozen=True, slots=True)
class FourBitBlocks:
    """Codes of 4 bits, row after row without regard to rows, and a scale for each block of them.

    Attributes:
        kind: ``nf4`` or ``fp4``.
        state: the tensor of packed JSON.
    """

    kind: CodeBook
    codes: TensorInfo
    absmax: TensorInfo
    state: TensorInfo
    quant_map: TensorInfo
    shape: tuple[int, int]
    block: int
    nested: NestedScales | None = None

    by_columns = False
    computed_in = None

    @property
    def label(self) -> str:
        of = f"in blocks of {self.block}"
        return f"bitsandbytes {self.kind}, 4 bit {of}" + (", scales of 8 bit" if self.nested else "")

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        nested = (self.nested.absmax, self.nested.quant_map) if self.nested else ()
        return self.codes, self.absmax, *nested, self.quant_map, self.state

    def decode(self, rows: range, cols: range) -> Array:
        from qkvinspect.weights.packed_codes import spanned

        return spanned(self._numbers, rows, cols)

    def slack(self, rows: range, cols: range) -> Array:
        """Half the distance to the farther neighbour, and with double quantisation the rounding error of the scale."""
        from qkvinspect.weights.packed_codes import spanned

        return spanned(self._slack, rows, cols)

    def python(self) -> tuple[str, ...]:
        count, names = self.shape[0] * self.shape[1], (self.codes.name, self.absmax.name, self.quant_map.name)
        codes, absmax, quant_map = (f"state_dict[{name!r}]" for name in names)
        lines = [f"absmax = {absmax}"]
        if self.nested is not None:
            outer = f"state_dict[{self.nested.absmax.name!r}].repeat_interleave({self.nested.block})[: len(absmax)]"
            lines.append(f"absmax = state_dict[{self.nested.quant_map.name!r}][absmax.long()] * {outer}")
            lines.append(f"absmax = absmax + {self.nested.offset!r}")
        return (
            *lines,
            f"codes = {codes}.reshape(-1).view(torch.uint8)",
            f"codes = torch.stack((codes >> 4, codes & 15), -1).flatten()[:{count}].long()",
            f"weight = {quant_map}[codes] * absmax.float().repeat_interleave({self.block})[:{count}]",
            f"weight = weight.reshape({self.shape[0]}, {self.shape[1]})",
        )

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        """The blocks of the rows, with a state that says how many rows these are."""
        import json

        from qkvinspect.weights.cutting import block_runs, not_cut, scaled

        (rows, cols), step = self.shape, self.codes.dtype.bits // 4
        places = scaled(runs, cols)
        blocks = block_runs(places, self.block)
        words = block_runs(places, step, rows * cols)
        if blocks is None or words is None or self.codes.shape[0] != self.codes.numel:
            raise not_cut(self.absmax, runs, f"a block of {self.block} values holds those of other rows too")
        said = {**packed_json(self.state, _MAX_STATE), "shape": [sum(map(len, runs)), cols]}
        found = [
            StoredRows("weight", self.codes, words),
            StoredRows("weight.absmax", self.absmax, blocks),
            StoredRows("weight.quant_map", self.quant_map, ()),
            StoredRows(f"weight.{_STATE}{self.kind}", self.state, (), made=json.dumps(said).encode()),
        ]
        if self.nested is None:
            return found
        outer = block_runs(blocks, self.nested.block)
        if outer is None:
            raise not_cut(self.nested.absmax, runs, f"{self.nested.block} scales share one with those of other rows")
        found.append(StoredRows("weight.nested_absmax", self.nested.absmax, outer))
        return [*found, StoredRows("weight.nested_quant_map", self.nested.quant_map, ())]

    def _numbers(self, rows: range, cols: range) -> Array:
        import numpy as np

        from qkvinspect.weights.code_books import code_book
        from qkvinspect.weights.packed_codes import by_groups

        found = self._looked_up(rows, cols, code_book(self.kind))
        for values, start, scales, _ in self._blocks(found, rows, cols):
            by_groups(np.multiply, values, start, self.block, scales)
        return found

    def _slack(self, rows: range, cols: range) -> Array:
        import numpy as np

        from qkvinspect.weights.code_books import code_book, half_steps_of
        from qkvinspect.weights.packed_codes import by_groups

        found = self._looked_up(rows, cols, half_steps_of(self.kind))
        sizes = np.abs(self._looked_up(rows, cols, code_book(self.kind)))
        pairs = zip(self._blocks(found, rows, cols), self._blocks(sizes, rows, cols), strict=True)
        for (values, start, scales, rounding), (around, _, _, _) in pairs:
            by_groups(np.multiply, values, start, self.block, np.abs(scales) + rounding)
            by_groups(np.multiply, around, start, self.block, rounding)
        return found + sizes

    def _runs(self, rows: range, cols: range) -> list[tuple[int, int]]:
        """What lies together: the places of the first code and of what follows the last, in the stream."""
        width = self.shape[1]
        if len(cols) == width and rows.step == 1:
            return [(rows.start * width, rows.stop * width)]
        return [(row * width + cols.start, row * width + cols.stop) for row in rows]

    def _looked_up(self, rows: range, cols: range, table: Array) -> Array:
        import numpy as np

        from qkvinspect.weights.packed_codes import numbers_in_bytes

        size = self.codes.dtype.bits // 8
        parts: list[Array] = []
        for start, stop in self._runs(rows, cols):
            first = self.codes.offset * size + start // 2
            data = self.codes.region.read(first, (stop + 1) // 2 - start // 2)
            numbers = numbers_in_bytes(np.frombuffer(data, np.uint8)[None], 4, table, high_first=True)
            parts.append(numbers[0, start % 2 :][: stop - start])
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(len(rows), len(cols))

    def _blocks(self, values: Array, rows: range, cols: range) -> list[tuple[Array, int, Array, Array]]:
        """Each run of the values as one row, where it starts, its scales, and how far these may be off."""
        found: list[tuple[Array, int, Array, Array]] = []
        flat, place = values.reshape(1, -1), 0
        for start, stop in self._runs(rows, cols):
            scales, off = self._scales(range(start // self.block, (stop - 1) // self.block + 1))
            found.append((flat[:, place : place + stop - start], start, scales[None], off[None]))
            place += stop - start
        return found

    def _scales(self, blocks: range) -> tuple[Array, Array]:
        """Float32, computed as the library does, and how far each may lie from what it was."""
        import numpy as np

        from qkvinspect.weights.code_books import half_gaps
        from qkvinspect.weights.packed_codes import by_groups

        if self.nested is None:
            found = _line(self.absmax, blocks)
            return found, np.zeros(len(found), np.float32)
        codes = _line(self.absmax, blocks).astype(np.intp)
        map_ = numbers_of(self.nested.quant_map, 256)
        outer = _line(
            self.nested.absmax, range(blocks.start // self.nested.block, ceil(blocks.stop / self.nested.block))
        )
        found, off = map_[codes][None], half_gaps(map_)[codes][None]
        by_groups(np.multiply, found, blocks.start, self.nested.block, outer[None])
        by_groups(np.multiply, off, blocks.start, self.nested.block, np.abs(outer[None]))
        return (found + np.float32(self.nested.offset))[0], off[0]


def _line(info: TensorInfo, places: range) -> Array:
    """Some numbers of a tensor of one axis, float32."""
    import numpy as np

    from qkvinspect.weights.strided import strided_matrix
    from qkvinspect.weights.values import rows_of_values

    return rows_of_values(strided_matrix(info, "out_in"), [places]).ravel().astype(np.float32)


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that a state belongs to; of a map, where there is no state."""
    tensors = checkpoint.tensors
    name, _, leaf = marker.rpartition(".quant_map" if marker.endswith(".quant_map") else f".{_STATE}")
    codes = tensors.get(name)
    if codes is None or (not leaf and any(f"{name}.{_STATE}{kind}" in tensors for kind in ("nf4", "fp4"))):
        return None
    try:
        if not leaf:
            raise LayoutError("is missing: it holds the shape", tensor=f"{name}.{_STATE}nf4")
        found = _blocks(name, "nf4" if leaf == "nf4" else "fp4", tensors)
    except LayoutError as error:
        return lost(name, codes, error)
    return Weight(name, _shape(packed_json(tensors[marker], _MAX_STATE), tensors[marker]), codes.dtype, None, found)


def _blocks(name: str, kind: CodeBook, tensors: Mapping[str, TensorInfo]) -> FourBitBlocks:
    """Raises:
    LayoutError: the tensors and the state do not belong together.
    """
    state = tensors[f"{name}.{_STATE}{kind}"]
    fields = packed_json(state, _MAX_STATE)
    shape, block = _shape(fields, state), fields.get("blocksize")
    if fields.get("quant_type") != kind:
        raise _wrong(state, "quant_type", kind, fields.get("quant_type"))
    if block not in _BLOCKS or not is_size(block):
        raise _wrong(state, "blocksize", f"one of {_BLOCKS}", block)
    numel, codes = shape[0] * shape[1], tensors[name]
    dtype = fields.get("dtype")
    if dtype not in ("float16", "bfloat16", "float32"):
        raise _wrong(state, "dtype", "float16, bfloat16 or float32", dtype)
    if (
        codes.nbytes != (numel + 1) // 2
        and codes.nbytes != ceil(numel / 2 / (codes.dtype.bits // 8)) * codes.dtype.bits // 8
    ):
        expected = f"{(numel + 1) // 2} bytes, two values to a byte for the shape {list(shape)}"
        raise LayoutError("has another size", tensor=name, expected=expected, found=f"{codes.nbytes} bytes")
    if not codes.contiguous or (codes.dtype.bits > 8 and codes.byteorder != "little"):
        raise LayoutError("does not lie in one run of bytes", tensor=name)
    absmax, quant_map = companion(tensors, f"{name}.absmax"), companion(tensors, f"{name}.quant_map")
    expect_shape(absmax, (ceil(numel / block),))
    _same_map(kind, quant_map)
    nested = _nested(name, fields, absmax, state, tensors)
    return FourBitBlocks(kind, codes, absmax, state, quant_map, shape, block, nested)


def _shape(fields: Mapping[str, object], state: TensorInfo) -> tuple[int, int]:
    shape = fields.get("shape")
    if not is_items(shape) or len(shape) != 2:
        raise _wrong(state, "shape", "[out, in]", shape)
    sizes = tuple(size for size in shape if is_size(size))
    if len(sizes) != 2 or sizes[0] * sizes[1] > 1 << 48:
        raise _wrong(state, "shape", "[out, in]", shape)
    return sizes[0], sizes[1]


def _same_map(kind: CodeBook, quant_map: TensorInfo) -> None:
    """The library ignores the map that is stored: it may not say anything else than its own."""
    import numpy as np

    from qkvinspect.weights.code_books import code_book

    expect_shape(quant_map, (16,))
    expect_dtype(quant_map, "float32", "float16", "bfloat16")
    if not np.allclose(numbers_of(quant_map, 16), code_book(kind), atol=1e-3, rtol=0):
        raise LayoutError(f"is not the map of {kind}", tensor=quant_map.name)


def _nested(
    name: str, fields: Mapping[str, object], absmax: TensorInfo, state: TensorInfo, tensors: Mapping[str, TensorInfo]
) -> NestedScales | None:
    if "nested_blocksize" not in fields and f"{name}.nested_absmax" not in tensors:
        expect_dtype(absmax, "float32", "float16", "bfloat16")
        return None
    expect_dtype(absmax, "uint8")
    block, offset = fields.get("nested_blocksize"), fields.get("nested_offset")
    if block not in _NESTED_BLOCKS or not is_size(block):
        raise _wrong(state, "nested_blocksize", f"one of {_NESTED_BLOCKS}", block)
    if not isinstance(offset, float) or not isfinite(offset):
        raise _wrong(state, "nested_offset", "a number", offset)
    outer, map_ = companion(tensors, f"{name}.nested_absmax"), companion(tensors, f"{name}.nested_quant_map")
    expect_dtype(outer, "float32")
    expect_shape(outer, (ceil(absmax.numel / block),))
    expect_dtype(map_, "float32")
    expect_shape(map_, (256,))
    return NestedScales(outer, map_, block, offset)


def _wrong(state: TensorInfo, field: str, expected: object, found: object) -> LayoutError:
    return LayoutError(f"says another {field}", tensor=state.name, expected=expected, found=found)
