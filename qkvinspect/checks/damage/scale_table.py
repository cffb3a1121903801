"""The scales of a weight as a table, and which of them are zero where codes are not, or negative.

All scales are read. Codes are read only of rows in which a scale is zero: they are decoded with ones for scales, so
that each encoding says itself what its codes stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from struct import pack

import numpy as np

from qkvinspect.checkpoint import Extent, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.weights.companions import number_of
from qkvinspect.weights.encodings.awq import Awq
from qkvinspect.weights.encodings.bitsandbytes_4bit import FourBitBlocks
from qkvinspect.weights.encodings.gptq import Gptq
from qkvinspect.weights.encodings.matmul_nbits import MatMulNBits
from qkvinspect.weights.encodings.micro_float import MicroFloat
from qkvinspect.weights.encodings.mlx import MlxAffine
from qkvinspect.weights.encodings.packed_integers import PackedIntegers
from qkvinspect.weights.encodings.scaled_float import ScaledFloat
from qkvinspect.weights.encodings.scaled_int import ScaledInteger
from qkvinspect.weights.grouping import checked_groups
from qkvinspect.weights.packed_codes import by_rows, stored_bytes
from qkvinspect.weights.reading import Array, numbers
from qkvinspect.weights.strided import strided_matrix
from qkvinspect.weights.tiled_scales import tiled_bytes
from qkvinspect.weights.values import rows_of_values
from qkvinspect.weights.weight import Encoding

_Integers = ScaledInteger | PackedIntegers | Gptq | Awq | MlxAffine | MatMulNBits

_AT_ONCE = 1 << 20
"""Values whose scales are read, or codes decoded, at once."""

_BY_DESIGN = 8
"""Quantisers of integers that give the larger end the last code (auto-round, MLX, onnxruntime) make about half of the
scales negative: an eighth or more of both signs is by design."""


@dataclass(frozen=True, slots=True)
class Flat:
    """Where rows of codes lie that are blocks of a stream, row after row of the weight.

    Attributes:
        width: of the weight.
        first: values before the first block.
    """

    width: int
    first: int


@dataclass(frozen=True, slots=True)
class ScaleTable:
    """The scales of a weight: [rows of the table, groups].

    Attributes:
        info: the tensor that holds them.
        down: rows of the table.
        read: the scales of some of its rows, float [rows, groups].
        height: how many rows of codes share a row of scales; the last may be of fewer.
        codes: the weight with ones for scales.
        rows: how many rows of codes there are.
        groups: the group of each column of the codes.
        across: how many groups there are.
        signed: whether negative scales may be by design.
        even: whether a group of equal codes may stand for zeros: some quantisers write any code for these.
        flat: where rows of codes are not rows of the weight.
    """

    info: TensorInfo
    down: int
    read: Callable[[range], Array]
    height: int
    codes: Encoding
    rows: int
    groups: Array
    across: int
    signed: bool = False
    even: bool = False
    flat: Flat | None = None

    def place(self, row: int, group: int) -> tuple[range, range]:
        """The rows and columns of the weight, from the first to the last, that a scale is for."""
        if self.flat is not None:
            size = len(self.groups)
            start = self.flat.first + row * size
            top, left = divmod(start, self.flat.width)
            bottom, right = divmod(start + size - 1, self.flat.width)
            return range(top, bottom + 1), range(left, right + 1) if top == bottom else range(self.flat.width)
        cols = np.flatnonzero(self.groups == group)
        return self.held(row), range(int(cols[0]), int(cols[-1]) + 1) if len(cols) else range(0)

    def held(self, row: int) -> range:
        """The rows of codes that a row of scales is for."""
        return range(row * self.height, min((row + 1) * self.height, self.rows))


@dataclass(frozen=True, slots=True)
class OddScales:
    """Where scales are odd: the rows of the table and the groups of each, in order."""

    rows: Array
    groups: Array


def wrong_scales(table: ScaleTable) -> tuple[OddScales, OddScales]:
    """The scales that are zero where codes are not, and those that are negative and not so by design.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    zero: list[Array] = []
    negative: list[Array] = []
    step = max(_AT_ONCE // max(len(table.groups) * table.height, 1), 1)
    for start in range(0, table.down, step):
        scales = table.read(range(start, min(start + step, table.down)))
        negative.append(np.argwhere(scales < 0) + np.array((start, 0)))
        lost = scales == 0
        rows = np.flatnonzero(lost.any(axis=1))
        if len(rows):
            first, last = int(rows[0]), int(rows[-1])
            some = range(start + first, start + last + 1)
            lost[first : last + 1] &= _coded(table, some)
            zero.append(np.argwhere(lost) + np.array((start, 0)))
    below, count = _joined(negative), table.down * table.across
    if table.signed and count <= _BY_DESIGN * len(below.rows) <= (_BY_DESIGN - 1) * count:
        below = _joined([])
    return _joined(zero), below


def _joined(found: list[Array]) -> OddScales:
    every = np.concatenate([np.zeros((0, 2), np.intp), *found])
    return OddScales(every[:, 0], every[:, 1])


def _coded(table: ScaleTable, some: range) -> Array:
    """Whether the codes of each group stand for more than zeros: [rows of the table, groups]."""
    most = np.full((len(some), table.across), -np.inf)
    least = -most
    rows = range(table.held(some[0]).start, table.held(some[-1]).stop)
    step = max(_AT_ONCE // max(len(table.groups), 1), 1)
    order = np.argsort(table.groups, kind="stable")
    names, starts = np.unique(table.groups[order], return_index=True)
    for start in range(rows.start, rows.stop, step):
        part = range(start, min(start + step, rows.stop))
        values = table.codes.decode(part, range(len(table.groups)))[:, order]
        place = np.arange(part.start, part.stop)[:, None] // table.height - some[0]
        np.fmax.at(most, (place, names), np.fmax.reduceat(values, starts, axis=1))
        np.fmin.at(least, (place, names), np.fmin.reduceat(values, starts, axis=1))
    return most > least if table.even else (most > 0) | (least < 0)


def scale_tables(encoding: Encoding) -> Iterator[ScaleTable]:
    """The scales of an encoding; none of those that have no such tables."""
    rows, cols = encoding.shape
    match encoding:
        case FourBitBlocks():
            yield from _of_blocks(encoding)
        case MicroFloat():
            if encoding.kind == "NVFP4":
                yield from _of_micro_floats(encoding)
        case ScaledFloat() if not encoding.stripe:
            down, across = ceil(rows / encoding.high), ceil(cols / encoding.wide)
            codes = replace(encoding, scales=_ones(encoding.scales))
            groups = np.arange(cols) // encoding.wide
            read = _reader(encoding.scales, down)
            yield ScaleTable(encoding.scales, down, read, encoding.high, codes, rows, groups, across)
        case ScaledInteger() | PackedIntegers() if encoding.scales.numel == 1:
            codes = replace(encoding, scales=_ones(encoding.scales))
            read, groups = _reader(encoding.scales, 1), np.zeros(cols, np.intp)
            yield ScaleTable(encoding.scales, 1, read, rows, codes, rows, groups, 1, even=_even(encoding))
        case ScaledInteger() | PackedIntegers() | Gptq() | Awq() | MlxAffine() | MatMulNBits():
            yield from _of_integers(encoding)
        case _:
            pass


def _of_integers(encoding: _Integers) -> Iterator[ScaleTable]:
    """A row of scales for each row of codes."""
    order, turned = None, False
    match encoding:
        case ScaledInteger() | MlxAffine():
            size = encoding.group
        case MatMulNBits():
            size, order = encoding.block, encoding.order
        case Gptq():
            size, order, turned = encoding.group, encoding.order, True
        case PackedIntegers():
            size, order = encoding.group, encoding.order
        case Awq():
            size, turned = encoding.group, True
    rows, cols = encoding.shape
    scales = encoding.scales
    matrix = strided_matrix(scales, "out_in")
    matrix = matrix.transposed if turned else matrix
    groups = np.arange(cols) // size if order is None else checked_groups(order, range(cols), matrix.cols)
    largest = isinstance(encoding, ScaledInteger) and encoding.largest

    def read(some: range) -> Array:
        return rows_of_values(matrix, [some])

    codes = replace(encoding, scales=_ones(scales))
    yield ScaleTable(scales, rows, read, 1, codes, rows, groups, matrix.cols, signed=not largest, even=_even(encoding))


def _even(encoding: _Integers) -> bool:
    """What bitsandbytes divides by zero is any code; MLX has a bias, which is the number where the scale is zero."""
    return isinstance(encoding, MlxAffine) or (isinstance(encoding, ScaledInteger) and encoding.largest)


def _of_blocks(encoding: FourBitBlocks) -> Iterator[ScaleTable]:
    """A row of codes for each block. Of scales that are codes themselves, those of these cannot be negative."""
    count, nested = encoding.shape[0] * encoding.shape[1], encoding.nested
    held, size = encoding.absmax, encoding.block
    if nested is not None:
        held, size = nested.absmax, size * nested.block
    whole, left = divmod(count, size)
    scales = strided_matrix(held, "out_in")
    for first, down, height in ((0, whole, size), (whole, 1 if left else 0, left)):

        def read(some: range, first: int = first) -> Array:
            found = rows_of_values(scales, [range(some.start + first, some.stop + first)])
            return found if nested is None else np.where(found == 0, 1, found)  # all of a block may be the mean

        if down:
            before = first * size * 4 // encoding.codes.dtype.bits
            info = replace(encoding.codes, offset=encoding.codes.offset + before)
            codes = replace(
                encoding, codes=info, absmax=_ones(held, down), nested=None, shape=(down, height), block=height
            )
            flat = Flat(encoding.shape[1], first * size)
            yield ScaleTable(held, down, read, 1, codes, down, np.zeros(height, np.intp), 1, even=True, flat=flat)


def _of_micro_floats(encoding: MicroFloat) -> Iterator[ScaleTable]:
    """That of all, where it is odd, and those of the groups."""
    (rows, cols), across = encoding.shape, encoding.shape[1] // encoding.group
    codes = replace(encoding, scales=_ones(encoding.scales, *encoding.scales_shape), whole=None, tiled=False)
    if encoding.whole is not None and (whole := number_of(encoding.whole)) <= 0:
        groups = np.zeros(cols, np.intp)
        yield ScaleTable(encoding.whole, 1, lambda _: np.full((1, 1), whole), rows, codes, rows, groups, 1)

    def read(some: range) -> Array:
        if encoding.tiled:
            data = tiled_bytes(encoding.scales, across, some, range(across))
        else:
            data = stored_bytes(by_rows(encoding.scales), some, range(across))
        return numbers(data, DTYPES["float8_e4m3fn"])[0]

    yield ScaleTable(encoding.scales, rows, read, 1, codes, rows, np.arange(cols) // encoding.group, across)


def _reader(info: TensorInfo, down: int) -> Callable[[range], Array]:
    """Of a matrix of scales, or one for all."""
    matrix = strided_matrix(info, "out_in")
    return lambda some: rows_of_values(matrix, [some]).reshape(len(some), -1 if down else 0)


def _ones(info: TensorInfo, *shape: int) -> TensorInfo:
    """A tensor of ones in place of scales."""
    shape = shape or info.shape
    small = info.dtype.name == "uint8" or info.dtype.name.startswith("float8")
    dtype, one = (DTYPES["float8_e4m3fn"], b"\x38") if small else (DTYPES["float32"], pack("<f", 1))
    return TensorInfo(info.name, dtype, shape, contiguous_strides(shape), _Ones(one))


class _Ones(Region):
    """One number over and over, in no file."""

    def __init__(self, one: bytes) -> None:
        self._one = one

    @property
    def extents(self) -> tuple[Extent, ...]:
        return ()

    def place(self, offset: int) -> None:  # noqa: ARG002
        return None

    def read(self, offset: int, length: int) -> bytes:  # noqa: ARG002
        return self._one * (length // len(self._one))
