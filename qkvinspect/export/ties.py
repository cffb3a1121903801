"""Keep tensors that share memory shared in the output, where the format allows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from qkvinspect.checkpoint import TensorInfo, contiguous_strides
from qkvinspect.dtypes import DType
from qkvinspect.export.pieces import ByteRun, OutputTensor, spans


@dataclass(frozen=True, slots=True)
class TiedView:
    """A tensor as a view of a storage, in elements."""

    piece: OutputTensor
    offset: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes that one tensor or more are views of."""

    dtype: DType
    nbytes: int
    contents: Iterable[ByteRun | bytes]
    views: tuple[TiedView, ...]


def storages(pieces: Sequence[OutputTensor]) -> Iterator[Storage]:
    """What a format that knows storages holds, in the order of the pieces."""
    groups = _groups(pieces)
    first = {id(group[0]): group for group in groups}
    later = {id(piece) for group in groups for piece in group[1:]}
    for piece in pieces:
        if id(piece) in later:
            continue
        yield _shared(first[id(piece)]) if id(piece) in first else _own(piece)


def shared(pieces: Sequence[OutputTensor]) -> int:
    """How many tensors share memory with an earlier one."""
    return sum(len(group) - 1 for group in _groups(pieces))


def _own(piece: OutputTensor) -> Storage:
    return Storage(piece.dtype, piece.nbytes, spans(piece), (TiedView(piece, 0, contiguous_strides(piece.shape)),))


def _shared(group: Sequence[OutputTensor]) -> Storage:
    """Tensors written as they are: all that lies between the first byte of any and the last."""
    infos = [piece.whole for piece in group if piece.whole is not None]
    low, high = min(_extent(info)[0] for info in infos), max(_extent(info)[1] for info in infos)
    size = infos[0].dtype.bits // 8
    views = (TiedView(p, i.offset - low // size, i.strides) for p, i in zip(group, infos, strict=True))
    return Storage(infos[0].dtype, high - low, (ByteRun(infos[0].region, low, high - low),), tuple(views))


def _groups(pieces: Sequence[OutputTensor]) -> list[list[OutputTensor]]:
    """Tensors that are written as they are and overlap, in the order of the pieces."""
    extents = sorted(
        (id(info.region), info.dtype.name, *_extent(info), index)
        for index, piece in enumerate(pieces)
        if (info := piece.whole)
        and info.numel
        and info.dtype.bits >= 8
        and (info.byteorder == "little" or info.dtype.bits == 8)
    )
    found: list[list[int]] = []
    before, end = (0, ""), 0
    for region, dtype, start, stop, index in extents:
        if before == (region, dtype) and start < end:
            found[-1].append(index)
        else:
            found.append([index])
            end = 0
        before, end = (region, dtype), max(end, stop)
    return [[pieces[index] for index in sorted(group)] for group in found if len(group) > 1]


def _extent(info: TensorInfo) -> tuple[int, int]:
    """First byte and end in the region."""
    size = info.dtype.bits // 8
    reach = sum((n - 1) * step for n, step in zip(info.shape, info.strides, strict=True))
    return info.offset * size, (info.offset + reach + 1) * size
