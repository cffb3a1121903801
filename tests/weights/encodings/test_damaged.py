"""Each stored tensor of each file of ``data/``, gone or with another shape, dtype or bytes: words, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import pytest

from qkvinspect.checkpoint import Checkpoint, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError, QkvInspectError
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.weight import Weight
from tests.weights.encodings.test_decoded import EVERY_KIND, decoded, opened


@dataclass(frozen=True)
class Bytes:
    """A file in memory."""

    data: bytes
    name: str = "memory"

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(self.data), "a tensor was read past its end"
        return self.data[offset : offset + length]

    def relative(self, name: str) -> Bytes:
        raise AssertionError

    def siblings(self) -> tuple[str, ...]:
        return ()

    def check(self) -> None: ...

    def close(self) -> None: ...


def _held(info: TensorInfo, data: bytes) -> TensorInfo:
    return replace(info, region=Region(Bytes(data), 0, len(data)), offset=0)


def _read(info: TensorInfo) -> bytes:
    return info.region.read(info.offset * info.dtype.bits // 8, info.nbytes)


def _shaped(info: TensorInfo, shape: tuple[int, ...]) -> TensorInfo:
    """Another shape of as many elements or fewer."""
    assert prod(shape) <= info.numel
    return replace(info, shape=shape, strides=contiguous_strides(shape))


def _shapes(info: TensorInfo) -> Iterator[tuple[str, TensorInfo]]:
    shape = info.shape
    others = {(0,), (info.numel,), (1, *shape), (*shape, 1), shape[::-1], ()}
    others |= {(*shape[:axis], shape[axis] - 1, *shape[axis + 1 :]) for axis in range(len(shape))}
    others |= {(*shape[:axis], shape[axis] // 2, *shape[axis + 1 :]) for axis in range(len(shape))}
    for other in sorted(others - {shape}):
        if prod(other) <= info.numel:
            yield f"shape {other}", _shaped(info, other)


def _dtypes(info: TensorInfo) -> Iterator[tuple[str, TensorInfo]]:
    for name in ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "int64", "int32", "uint32", "int16",
                 "int8", "uint8", "bool", "complex64", "qint8"):  # fmt: skip
        dtype = DTYPES[name]
        if dtype != info.dtype:
            yield f"dtype {name}", _held(replace(info, dtype=dtype), _read(info) * 8)


def _values(info: TensorInfo) -> Iterator[tuple[str, TensorInfo]]:
    size = info.nbytes
    noise = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    for name, data in (("zeros", bytes(size)), ("ones", b"\xff" * size), ("noise", noise), ("7f", b"\x7f" * size)):
        yield f"bytes {name}", _held(info, data)


def _damaged(checkpoint: Checkpoint) -> Iterator[tuple[str, str, Checkpoint]]:
    for name, info in checkpoint.tensors.items():
        yield name, "missing", replace(checkpoint, tensors={n: i for n, i in checkpoint.tensors.items() if n != name})
        for make in (_shapes, _dtypes, _values):
            for what, other in make(info):
                yield name, what, replace(checkpoint, tensors={**checkpoint.tensors, name: other})


def _use(weight: Weight) -> None:
    """All that anybody asks of a weight."""
    assert weight.shape is not None
    assert weight.nbytes >= 0
    encoding = weight.encoding
    if encoding is None:
        return
    rows, cols = encoding.shape
    assert encoding.label
    assert encoding.python()
    assert encoding.stored
    decoded(weight)
    encoding.slack(range(rows), range(cols))
    with suppress(LayoutError):
        encoding.cut([range(rows)])


@pytest.mark.parametrize("name", EVERY_KIND)
def test_each_damage_is_told_in_words(name: str) -> None:
    """A first module of each file: all that can be done to its tensors."""
    with opened(name) as checkpoint:
        before = weights_of(checkpoint)
        first = next(iter(before.encoded.values()))
        tensors = {info.name: info for info in first.stored}
        small = replace(checkpoint, tensors=tensors)
        right, told = decoded(first), list[tuple[str, str, QkvInspectError]]()
        for tensor, what, damaged in _damaged(small):
            try:
                found = weights_of(damaged)
                weight = found[first.name] if first.name in set(found) else None
                if weight is not None:
                    _use(weight)
            except QkvInspectError as error:
                told.append((tensor, what, error))
                continue
            if weight is not None and weight.encoding is None and weight.why:
                assert "(" in weight.why or ":" in weight.why, (tensor, what, weight.why)
            if weight is None or weight.encoding is None or what.startswith("bytes"):
                continue
            if what == "missing" and tensor.endswith("comfy_quant"):
                continue  # what ModelOpt would have written
            if what == "missing" or not _another_file(damaged.tensors[tensor], tensors):
                assert _same(weight, right), (tensor, what, weight.encoding)
    assert all(tensor in str(error) for tensor, _, error in told), told


def _another_file(info: TensorInfo, tensors: dict[str, TensorInfo]) -> bool:
    """Whether a library could have written just that.

    Scales in another dtype; int8 and float8 with as many bits, of fewer rows or columns, or with one scale for all;
    stacked matrices that have one scale; other rows and columns where scales come in tiles of many.
    """
    before = tensors[info.name]
    if info.shape == before.shape:
        return {info.dtype.name, before.dtype.name} <= {*_FLOATS} or {info.dtype.name, before.dtype.name} <= {*_BYTES}
    if info.name.endswith(("_scale", "scale_weight", "weight_zero_point")):
        return info.numel == 1
    if any(name.endswith("comfy_quant") for name in tensors) and len(info.shape) == len(before.shape):
        return True
    one_scale = all(other.numel == 1 for other in tensors.values() if other is not before)
    return info.dtype.name in _BYTES and (one_scale or len(info.shape) == len(before.shape))


_FLOATS = ("float16", "bfloat16", "float32", "float64")
_BYTES = ("int8", "float8_e4m3fn", "float8_e5m2")


def _same(weight: Weight, right: np.ndarray) -> bool:
    """Whether nothing wrong is printed: the damage did not matter to what the tensor means."""
    values = decoded(weight)
    return values.shape == right.shape and np.array_equal(values, right, equal_nan=True)
