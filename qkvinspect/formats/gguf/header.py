"""The header of one GGUF file (ggml's docs/gguf.md): metadata, then tensors, then their bytes, each aligned."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from qkvinspect.checkpoint import ByteOrder, ByteSource, Region, TensorInfo, contiguous_strides
from qkvinspect.error_codes import Code
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats.damaged import damaged
from qkvinspect.formats.gguf.cursor import Cursor
from qkvinspect.formats.gguf.metadata import UINT32, Value, read_metadata
from qkvinspect.formats.gguf.types import GGML_TYPES
from qkvinspect.formats.limits import Limits
from qkvinspect.weights.encodings.ggml_scales import with_order

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_RANK = 4
_ALIGNMENT = "general.alignment"
_MAX_ALIGNMENT = 1 << 20


class Header(NamedTuple):
    """The header of one file.

    Attributes:
        unused: bytes behind the last tensor.
    """

    values: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    unused: int


class _TensorHeader(NamedTuple):
    name: str
    type: int
    shape: tuple[int, ...]
    offset: int


def read_header(source: ByteSource, limits: Limits) -> Header:
    """The metadata and the tensors of one file; no tensor is read.

    Raises:
        CheckpointError: the header is malformed, over a limit, or does not describe the file's bytes.
    """
    byteorder = _byteorder(source)
    cursor = Cursor(source, byteorder, limits, 8)
    num_tensors, num_keys = cursor.number("Q"), cursor.number("Q")
    limits.check("tensors", num_tensors, source.name)
    values, types = read_metadata(cursor, num_keys)
    entries = [_entry(cursor) for _ in range(num_tensors)]
    alignment = _alignment(source, values, types)
    start = _aligned(cursor.position, alignment)
    tensors: dict[str, TensorInfo] = {}
    for entry in entries:
        if entry.name in tensors:
            raise damaged(source, Code.GGUF_DUPLICATE, "stands in the header twice", None, entry.name)
        tensors[entry.name] = _tensor(source, entry, start, byteorder)
    end = _check_places(source, entries, tensors, alignment)
    if byteorder == "big":
        tensors = with_order(tensors)
    return Header(values, tensors, max(source.size - start - _aligned(end, alignment), 0))


def _byteorder(source: ByteSource) -> ByteOrder:
    """The byte order in which the version is plausible; the magic is the same in both.

    Raises:
        CheckpointError: it is of no version that is read here.
    """
    version = source.read(4, 4) if source.size >= 8 else b""
    if int.from_bytes(version, "little") in _VERSIONS:
        return "little"
    if int.from_bytes(version, "big") in _VERSIONS:
        return "big"
    found = str(int.from_bytes(version, "little")) if version else f"{source.size} bytes"
    raise damaged(source, Code.GGUF_VERSION, "is GGUF, but not of version 2 or 3", found)


def _entry(cursor: Cursor) -> _TensorHeader:
    name = cursor.text("the name of a tensor")
    rank = cursor.number("I")
    if rank > _MAX_RANK:
        found = f"{rank} dimensions, at most {_MAX_RANK} can be"
        raise damaged(cursor.source, Code.GGUF_SHAPE, "shape cannot be", found, name)
    sizes = tuple(cursor.number("Q") for _ in range(rank))
    if prod(sizes) >= 1 << 63 or max(sizes, default=0) >= 1 << 63:
        raise damaged(cursor.source, Code.GGUF_SHAPE, "shape cannot be", f"sizes {sizes}", name)
    return _TensorHeader(name, cursor.number("I"), sizes[::-1], cursor.number("Q"))  # the innermost size comes first


def _alignment(source: ByteSource, values: Mapping[str, Value], types: Mapping[str, int]) -> int:
    if _ALIGNMENT not in types:
        return 32
    value = values.get(_ALIGNMENT)
    is_power = isinstance(value, int) and 0 < value <= _MAX_ALIGNMENT and value & (value - 1) == 0
    if types[_ALIGNMENT] != UINT32 or not isinstance(value, int) or not is_power:
        found = repr(value)[:60]
        raise damaged(source, Code.GGUF_ALIGNMENT, "general.alignment is no power of two in 32 bits", found)
    return value


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _tensor(source: ByteSource, entry: _TensorHeader, start: int, byteorder: ByteOrder) -> TensorInfo:
    dtype = GGML_TYPES.get(entry.type)
    if dtype is None:
        raise damaged(source, Code.GGUF_TYPE, "unknown type", str(entry.type), entry.name)
    row = entry.shape[-1] if entry.shape else 1
    if row % dtype.block:
        found = f"rows of {row} numbers in {dtype.name}, which has blocks of {dtype.block}"
        raise damaged(source, Code.GGUF_SHAPE, "rows are no whole number of blocks", found, entry.name)
    nbytes = dtype.nbytes(prod(entry.shape))
    if start + entry.offset + nbytes > source.size:
        found = f"{nbytes} bytes from {start + entry.offset} of {source.size}"
        raise damaged(source, Code.GGUF_RANGE, "data is outside the file", found, entry.name)
    region = Region(source, start + entry.offset, nbytes)
    strides = contiguous_strides(entry.shape)
    return TensorInfo(entry.name, dtype, entry.shape, strides, region, byteorder=byteorder, keys=(entry.name,))


def _check_places(
    source: ByteSource, entries: list[_TensorHeader], tensors: Mapping[str, TensorInfo], alignment: int
) -> int:
    """The tensors must follow each other, each from the next aligned offset, as ggml demands; gives their end."""
    end = 0
    for entry in sorted(entries, key=lambda entry: (entry.offset, tensors[entry.name].region.nbytes)):
        expected = _aligned(end, alignment)
        if entry.offset != expected:
            code = Code.GGUF_HOLE if entry.offset > expected else Code.GGUF_OVERLAP
            found = f"offset {entry.offset}, expected {expected}"
            raise damaged(source, code, "its bytes do not follow the tensor before", found, entry.name)
        end = entry.offset + tensors[entry.name].region.nbytes
    return end
