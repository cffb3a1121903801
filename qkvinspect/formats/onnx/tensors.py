"""Locate the numbers of initialisers, in the file itself or in another beside it."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from math import isfinite, prod

from qkvinspect.checkpoint import ByteSource, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES, DType
from qkvinspect.error_codes import Code
from qkvinspect.formats.damaged import damaged
from qkvinspect.formats.onnx.graph import Stored
from qkvinspect.formats.onnx.wire import Wire, signed

_NAMES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    27: "float6_e2m3fn",
    28: "float6_e3m2fn",
}
_NARROW = {21: ("uint4", 4), 22: ("int4", 4), 25: ("uint2", 2), 26: ("int2", 2)}
ONNX_TYPES: Mapping[int, DType] = {number: DTYPES[name] for number, name in _NAMES.items()} | {
    number: DType(name, bits, "opaque") for number, (name, bits) in _NARROW.items()
}
"""TensorProto.DataType, but for texts."""

STRING = 8
_RAW, _VARINTS = 9, (5, 7, 11)
_FIXED = {4: ("float32", "complex64"), 10: ("float64", "complex128")}
_MOST_VARINTS = 1 << 20


class _Varints(Region):
    """Numbers that are written as varints, made of them when they are first read."""

    def __init__(self, wire: Wire, place: tuple[int, int], width: int, count: int) -> None:
        super().__init__(wire.source, place[0], width * count)
        self._wire = wire
        self._place = place
        self._count = count

    @cached_property
    def _bytes(self) -> bytes:
        width = self.nbytes // max(self._count, 1)
        values = list(self._wire.varints(*self._place))
        if len(values) != self._count:
            found = f"{len(values)} numbers, {self._count} by its shape"
            raise damaged(self.source, Code.ONNX_RANGE, "has fewer or more numbers than its shape", found)
        return b"".join((value & (1 << 8 * width) - 1).to_bytes(width, "little") for value in values)

    def place(self, offset: int) -> None:  # noqa: ARG002  (they lie nowhere as they are)
        return None

    def read(self, offset: int, length: int) -> bytes:
        return self._bytes[offset : offset + length]


class Tensors:
    """The initialisers of a file as tensors.

    Args:
        resources: closes the files that are opened for them.
    """

    def __init__(self, wire: Wire, resources: ExitStack) -> None:
        self._wire = wire
        self._source = wire.source
        self._resources = resources
        self.files: dict[str, ByteSource] = {}

    def info(self, stored: Stored) -> TensorInfo | None:
        """An initialiser as a tensor under its own name; None for one of texts.

        Raises:
            CheckpointError: its bytes are not where they should be, or not as many as its shape asks for.
        """
        if stored.type == STRING:
            return None
        dtype = ONNX_TYPES.get(stored.type)
        if dtype is None:
            raise damaged(self._source, Code.ONNX_TYPE, "unknown type", str(stored.type), stored.name)
        numel = prod(stored.sizes)
        if numel >= 1 << 63:
            raise damaged(self._source, Code.ONNX_SHAPE, "shape cannot be", str(stored.sizes)[:80], stored.name)
        region = self._region(stored, dtype, numel)
        return TensorInfo(
            stored.name, dtype, stored.sizes, contiguous_strides(stored.sizes), region, keys=(stored.name,)
        )

    def _region(self, stored: Stored, dtype: DType, numel: int) -> Region:
        nbytes = dtype.nbytes(numel)
        if stored.external:
            return self._external(stored, nbytes)
        if stored.place is None:
            if numel:
                raise damaged(self._source, Code.ONNX_RANGE, "has no numbers", f"shape {stored.sizes}", stored.name)
            return Region(self._source, 0, 0)
        number, start, stop = stored.place
        if number in _VARINTS and dtype.kind != "complex" and dtype.bits in (8, 16, 32, 64):
            if numel > min(_MOST_VARINTS, stop - start):
                found = f"{numel} numbers in {stop - start} bytes"
                raise damaged(self._source, Code.ONNX_RANGE, "has too many numbers as varints", found, stored.name)
            return _Varints(self._wire, (start, stop), dtype.bits // 8, numel)
        if stop - start != nbytes or (number != _RAW and dtype.name not in _FIXED.get(number, ())):
            found = f"{stop - start} bytes in field {number}, {nbytes} by its shape"
            raise damaged(self._source, Code.ONNX_RANGE, "has fewer or more bytes than its shape", found, stored.name)
        return Region(self._source, start, nbytes)

    def _external(self, stored: Stored, nbytes: int) -> Region:
        location = stored.external["location"]
        numbers: list[int] = []
        for key, missing in (("offset", 0), ("length", nbytes)):
            text = stored.external.get(key, "")
            if not re.fullmatch(r"\d{0,18}", text, re.ASCII):
                raise damaged(self._source, Code.ONNX_EXTERNAL, f"its {key} is no number", text[:40], stored.name)
            numbers.append(int(text or missing))
        start, length = numbers
        if location not in self.files:
            self._wire.limits.check("shards", len(self.files) + 1, self._source.name)
            self.files[location] = self._source.relative(location)
            self._resources.callback(self.files[location].close)
        file = self.files[location]
        if length != nbytes or start + length > file.size:
            found = f"{length} bytes from {start} of the {file.size} of {location!r}, {nbytes} by its shape"
            raise damaged(self._source, Code.ONNX_RANGE, "data is outside the file", found, stored.name)
        return Region(file, start, nbytes)


_FLOATS = {1: ("<f", 4), 10: ("<e", None), 11: ("<d", 10)}
"""By type of a tensor, as struct has it, and the field for its numbers where they are not raw."""


def number_of(stored: Stored, wire: Wire) -> float | None:
    """The floating-point number of a constant that is one; None for anything else."""
    form, own = _FLOATS.get(stored.type, ("", None))
    if not form or stored.place is None or stored.external or prod(stored.sizes) != 1:
        return None
    number, start, stop = stored.place
    if number not in (_RAW, own) or stop - start != struct.calcsize(form):
        return None
    (value,) = struct.unpack(form, wire.take(start, stop))
    return float(value) if isfinite(value) else None


def small_numbers(stored: Stored, wire: Wire, most: int = 16) -> tuple[int, ...] | None:
    """The whole numbers of a short constant, such as a shape; None for anything else."""
    count = prod(stored.sizes)
    if stored.type != 7 or stored.place is None or stored.external or not 0 < count <= most:
        return None
    number, start, stop = stored.place
    if number == _RAW and stop - start == 8 * count:
        data = wire.take(start, stop)
        return tuple(int.from_bytes(data[at : at + 8], "little", signed=True) for at in range(0, 8 * count, 8))
    if number == 7 and stop - start <= 10 * count:
        return tuple(map(signed, wire.varints(start, stop)))
    return None
