"""The block types of ggml, as GGUF files hold them: a run of a row's values with the scales they share.

Recognised by their dtype, not by a name. The numbers are those of the ``gguf`` package (``gguf.quants``), which is
imported when the first is asked for; shapes need nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.encodings.ggml_scales import in_order
from qkvinspect.weights.strided import strided_matrix, strided_shape
from qkvinspect.weights.weight import StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

_PIECE = 1 << 20
"""Stored bytes that are decoded at once: a tile, so that nothing is put together afterwards."""

_CODES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "Q4_0": ((2, 18, 0x11),),
    "Q4_1": ((4, 20, 0x11),),
    "Q5_0": ((2, 6, 0), (6, 22, 0x11)),
    "Q5_1": ((4, 8, 0), (8, 24, 0x11)),
    "Q8_0": ((2, 34, 1),),
    "Q2_K": ((16, 80, 0x55),),
    "Q3_K": ((0, 32, 0), (32, 96, 0x55)),
    "Q4_K": ((16, 144, 0x11),),
    "Q5_K": ((16, 48, 0), (48, 176, 0x11)),
    "Q6_K": ((0, 128, 0x11), (128, 192, 0)),
}
"""Where the codes of a block lie, and the bytes that make every code one step more than all zeros do
(ggml-common.h). All other bytes are scales."""


_SIMPLE = {"Q4_0": (4, -8, 0), "Q4_1": (4, 0, 1), "Q5_0": (5, -16, 0), "Q5_1": (5, 0, 1), "Q8_0": (8, 0, 0)}
"""Types of one scale a block: the bits of a code, what is added to it, and whether the block has an offset too."""

_NOT_DECODED = frozenset({"Q8_1", "Q8_K", "Q1_0"})
"""Types that occur only in intermediate results, and one that is too new."""

Made = Callable[["Array"], "Array"]
"""Turns blocks of bytes into a number for each of their values."""


@dataclass(frozen=True, slots=True)
class GgmlBlocks:
    """A matrix in blocks along its rows."""

    info: TensorInfo

    by_columns = False
    computed_in = None

    @property
    def label(self) -> str:
        return f"{self.info.dtype.name} of ggml, in blocks of {self.info.dtype.block}"

    @property
    def shape(self) -> tuple[int, int]:
        return strided_shape(self.info, "out_in")

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return (self.info,)

    def decode(self, rows: range, cols: range) -> Array:
        return _over(self.info, rows, cols, lambda blocks: _numbers(blocks, self.info.dtype))

    def slack(self, rows: range, cols: range) -> Array | None:
        """Half a step of the codes; the first and the last code stand for all that lies beyond them too.

        Except Q8_0's, whose scale makes the largest value of a block the largest code, so that none lies beyond, and
        MXFP4's, whose scale is the power of two by which the largest lies below 8, where the last code is 6.
        """
        if self.info.dtype.name == "MXFP4":
            return _over(self.info, rows, cols, lambda blocks: _half_gaps(blocks, self.info.dtype))
        places = _CODES.get(self.info.dtype.name)
        if places is None:
            return None
        return _over(self.info, rows, cols, lambda blocks: _half_steps(blocks, self.info.dtype, places))

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        return (StoredRows("weight", self.info, tuple(runs)),)

    def python(self) -> tuple[str, ...]:
        return (f"weight = state_dict[{self.info.name!r}]",)


def weight_of(info: TensorInfo) -> Weight:
    """A tensor of a block type as the weight that it holds."""
    if info.dtype.name in _NOT_DECODED:
        return Weight(info.name, info.shape, info.dtype, info, why=f"no package decodes ggml's {info.dtype.name}")
    if info.byteorder == "unknown":
        why = "the scales in its blocks do not tell in which order of bytes they lie: both occur in big-endian GGUF"
        return Weight(info.name, info.shape, info.dtype, info, why=why)
    if not _has_package():
        why = f"the numbers of ggml's {info.dtype.name} need a package: pip install 'qkvinspect[gguf]'"
        return Weight(info.name, info.shape, info.dtype, info, why=why)
    return Weight(info.name, info.shape, info.dtype, None, GgmlBlocks(info))


@lru_cache(1)
def _has_package() -> bool:
    from importlib.util import find_spec

    return find_spec("gguf") is not None


def _over(info: TensorInfo, rows: range, cols: range, made: Made) -> Array:
    """What is made of the blocks of some rows and columns, some rows at a time: float32 [rows, columns]."""
    import numpy as np

    from qkvinspect.weights.reading import gather

    size, block = info.dtype.bits // 8, info.dtype.block
    if not len(rows) or not len(cols):
        return np.empty((len(rows), len(cols)), np.float32)
    low, high = min(cols[0], cols[-1]) // block, max(cols[0], cols[-1]) // block + 1
    units = strided_matrix(info, "out_in").transposed.take(range(low * size, high * size)).transposed
    start = cols.start - low * block
    neighbours = cols.step == 1  # a view is taken of these, a copy of others
    columns = slice(start, start + len(cols)) if neighbours else np.asarray(cols) - low * block
    step = max(_PIECE // max((high - low) * size, 1), 1)
    if step >= len(rows):  # nothing is copied
        return made(in_order(gather(units, [rows]).reshape(-1, size), info)).reshape(len(rows), -1)[:, columns]
    out = np.empty((len(rows), len(cols)), np.float32)
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        blocks = in_order(gather(units, [some]).reshape(-1, size), info)
        out[first : first + len(some)] = made(blocks).reshape(len(some), -1)[:, columns]
    return out


def _numbers(blocks: Array, dtype: DType) -> Array:
    """Of blocks as bytes, uint8 [blocks, bytes of one]: float32 [blocks, values]."""
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    with np.errstate(all="ignore"):  # scales that are not finite
        if dtype.name in _SIMPLE:
            return _simple(blocks, *_SIMPLE[dtype.name])
        one_row = np.ascontiguousarray(blocks).reshape(1, -1)  # of many short ones the package takes 16 at a time
        return quants.dequantize(one_row, GGMLQuantizationType[dtype.name]).reshape(len(blocks), -1)


def _simple(blocks: Array, bits: int, least: int, offset: int) -> Array:
    """As the package computes it, but without copies of the codes as floats, which take most of its time."""
    import numpy as np

    floats = blocks[:, : 4 if offset else 2].copy().view("<f2").astype(np.float32)
    if bits == 8:
        return np.multiply(blocks[:, 2:].view(np.int8), floats)
    pairs = blocks[:, -16:]
    codes = np.empty((len(blocks), 32), np.uint8)
    np.bitwise_and(pairs, 15, out=codes[:, :16])
    np.right_shift(pairs, 4, out=codes[:, 16:])
    if bits == 5:
        high = np.unpackbits(blocks[:, -20:-16], axis=1, bitorder="little")
        codes |= np.left_shift(high, 4, out=high)
    signed = codes.view(np.int8)
    signed += least
    found = np.multiply(signed, floats[:, :1])
    return np.add(found, floats[:, 1:], out=found) if offset else found


def _half_steps(blocks: Array, dtype: DType, places: tuple[tuple[int, int, int], ...]) -> Array:
    import numpy as np

    def filled(code: int | None) -> Array:
        changed = blocks.copy()
        for start, stop, one in places:
            changed[:, start:stop] = one if code is None else code
        return _numbers(changed, dtype)

    if dtype.name == "Q8_0":
        return np.abs(filled(None)) / 2
    own, least, most = _numbers(blocks, dtype), filled(0), filled(0xFF)
    with np.errstate(invalid="ignore"):
        steps = np.abs(filled(None) - least) / 2
    return np.where((own == least) | (own == most), np.float32(np.inf), steps)


def _half_gaps(blocks: Array, dtype: DType) -> Array:
    """Of E2M1, whose values are 0, 0.5, 1, 1.5, 2, 3, 4 and 6 times the scale (gguf.quants.MXFP4.quantize_blocks)."""
    import numpy as np

    codes = np.concatenate((blocks[:, 1:] & 7, blocks[:, 1:] >> 4 & 7), axis=1)
    ones = blocks.copy()
    ones[:, 1:] = 0x22
    return np.array((0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 1, 2), np.float32)[codes] * _numbers(ones, dtype)
