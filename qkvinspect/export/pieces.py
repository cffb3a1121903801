"""A tensor to write, as rows of stored ones; which of its bytes can be copied as they lie, which must be gathered.

What is copied as it lies needs no numpy, which takes longer to import than many a file to copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import BinaryIO, Literal

from qkvinspect.checkpoint import BLOCK, Orientation, Region, TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.layouts.packing import Geometry, Packing
from qkvinspect.weights.copying import copy_range
from qkvinspect.weights.weight import DecodedMatrix, Weight


@dataclass(frozen=True, slots=True)
class RowRun:
    """Some rows along the output axis of a weight; zeros where there is none."""

    rows: range
    weight: Weight | None = None
    orientation: Orientation = "out_in"


@dataclass(frozen=True, slots=True)
class Packed:
    """How the rows of a written projection are packed: what tensor parallelism has to know to cut it."""

    packing: Packing
    geometry: Geometry


Parallel = Packed | Literal["inputs first", "inputs last", "whole"] | None
"""What each rank of tensor parallelism gets of a tensor: some heads of a projection; some inputs of an output
projection, which lie along its first or last axis; all of it; None: its name tells."""


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One tensor to write: a stored one as it is, or rows of stored ones one after the other.

    Attributes:
        shape: as it will be stored.
        lying: how the rows of ``runs`` are stored: [in, out] for all but ``out_in``.
        whole: the tensor that is written as it is.
        made: its bytes, where no stored tensor holds them.
        parallel: what each rank gets of it where it is written as the shares of several.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    runs: tuple[RowRun, ...] = ()
    lying: Orientation = "out_in"
    whole: TensorInfo | None = None
    parallel: Parallel = None
    made: bytes | None = None

    @property
    def nbytes(self) -> int:
        return self.dtype.nbytes(prod(self.shape))

    @property
    def sources(self) -> tuple[TensorInfo, ...]:
        """The stored tensors that its bytes come from."""
        if self.whole is not None:
            return (self.whole,)
        stored = (info for run in self.runs if run.weight is not None for info in run.weight.stored)
        return tuple({info.name: info for info in stored}.values())


def unchanged(info: TensorInfo, name: str | None = None) -> OutputTensor:
    """A stored tensor as it is, under another name if one is given."""
    return OutputTensor(name or info.name, info.shape, info.dtype, whole=info)


@dataclass(frozen=True, slots=True)
class ByteRun:
    """Bytes that can be copied as they lie."""

    region: Region
    offset: int
    nbytes: int


def spans(piece: OutputTensor) -> Iterator[ByteRun | bytes]:
    """The bytes of a tensor, row-major and little-endian, as runs to copy and bytes to write.

    Raises:
        LayoutError: its elements are narrower than a byte and not in order.
    """
    if piece.made is not None:
        yield piece.made
    elif piece.whole is not None:
        yield from _whole(piece.whole)
    elif piece.lying != "out_in":
        from qkvinspect.export.scattered import transposed

        taken = [run.weight.as_matrix(run.orientation).take(run.rows) for run in piece.runs if run.weight is not None]
        yield from transposed(taken, piece.dtype, piece.name)
    else:
        for run in piece.runs:
            yield from _rows(run, piece.dtype)


def contents(pieces: Iterable[ByteRun | bytes]) -> Iterator[bytes]:
    """The bytes themselves, about a block at a time."""
    for span in pieces:
        if isinstance(span, bytes):
            yield span
        else:
            for start in range(0, span.nbytes, BLOCK):
                yield span.region.read(span.offset + start, min(BLOCK, span.nbytes - start))


def copy(pieces: Iterable[ByteRun | bytes], file: BinaryIO, advance: Callable[[int], None]) -> None:
    """Write them to a file, told how many bytes have just been written."""
    for span in pieces:
        if isinstance(span, bytes):
            file.write(span)
            advance(len(span))
        else:
            copy_range(span.region, span.offset, span.nbytes, file, advance)


def _rows(run: RowRun, dtype: DType) -> Iterator[ByteRun | bytes]:
    if run.weight is None:
        yield bytes(dtype.nbytes(len(run.rows)))
        return
    matrix = run.weight.as_matrix(run.orientation)
    part = matrix.take(run.rows)
    if isinstance(part, DecodedMatrix):
        from qkvinspect.export.scattered import decoded

        yield from decoded(part, dtype)
    elif part.plain:
        size = part.unit // 8
        yield ByteRun(part.info.region, part.offset * size, part.rows * part.cols * size)
    else:
        from qkvinspect.export.scattered import scattered

        yield from scattered(part)


def _whole(info: TensorInfo) -> Iterator[ByteRun | bytes]:
    bits = info.dtype.bits
    if info.contiguous and (info.byteorder == "little" or bits <= 8) and info.offset * bits % 8 == 0:
        yield ByteRun(info.region, info.offset * bits // 8, info.nbytes)
    elif bits < 8:
        raise LayoutError(f"{info.dtype.name} is stored out of order: a byte holds several", tensor=info.name)
    elif info.numel:
        from qkvinspect.export.scattered import strided

        yield from strided(info, info.shape, info.strides, info.offset)
