"""torch's zip format, written without torch: each storage streamed, then the pickle that describes them."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

from qkvinspect.dtypes import DTYPES, DType
from qkvinspect.errors import LayoutError
from qkvinspect.export.pieces import ByteRun, OutputTensor, contents
from qkvinspect.export.ties import Storage, TiedView, storages
from qkvinspect.fast_dataclass import replace
from qkvinspect.formats.torch_storages import STORAGES

_TYPES = {dtype.name: name for name, dtype in STORAGES.items() if dtype is not None and dtype.kind != "opaque"}
"""Storages that have a dtype; a tensor of any other names its own, as torch has it since 2.1."""

_ALIGNMENT = 64
_ROOT = "archive"
_PROTOCOL = b"\x80\x02"
_NEVER = (1980, 1, 1, 0, 0, 0)
_HEADER = 30  # bytes of a local header before the name
_ZIP64 = 20


def write_torch(
    file: BinaryIO,
    pieces: Sequence[OutputTensor],
    metadata: Callable[[], Mapping[str, str]],
    advance: Callable[[int], None],
    within: Mapping[str, int] | None = None,
) -> None:
    """A plain state_dict; where it came from stands in its ``_metadata``, as torch keeps its versions.

    Args:
        metadata: asked when all tensors are written.
        within: numbers beside the state_dict, which is then kept under ``model``.
    """
    held = list(storages([as_torch_counts(piece) for piece in pieces]))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for key, storage in enumerate(held):
            _entry(archive, f"data/{key}", storage.nbytes, storage.contents, advance)
        order = {piece.name: place for place, piece in enumerate(pieces)}
        described = sorted(_tensors(held), key=lambda named: order[named[0]])
        text = b"".join(_pickle(described, {"": {"version": 1}, "qkvinspect": dict(metadata())}))
        if within is not None:
            text = _beside(within, text)
        for name, data in (("data.pkl", text), ("byteorder", b"little"), ("version", b"3\n")):
            _entry(archive, name, len(data), (data,), lambda _: None)


def as_torch_counts(piece: OutputTensor) -> OutputTensor:
    """With a dtype of torch, which counts pairs of 4-bit floats.

    Raises:
        LayoutError: there is none.
    """
    dtype, shape = piece.dtype, piece.shape
    if dtype.name == "float4_e2m1fn" and shape and shape[-1] % 2 == 0:
        return replace(piece, dtype=DTYPES["float4_e2m1fn_x2"], shape=(*shape[:-1], shape[-1] // 2))
    if dtype.kind == "opaque" or dtype.bits < 8:
        hint = "its numbers have to be dequantised first" if dtype.block > 1 else "write a .safetensors file"
        raise LayoutError(f"torch has no plain dtype {dtype.name}", tensor=piece.name, hint=hint)
    return piece


def _entry(
    archive: zipfile.ZipFile, name: str, nbytes: int, data: Iterable[ByteRun | bytes], advance: Callable[[int], None]
) -> None:
    """One entry; its bytes begin on a multiple of 64, as torch has them, so that they can be mapped."""
    info = zipfile.ZipInfo(f"{_ROOT}/{name}", _NEVER)
    info.file_size = nbytes
    large = _ZIP64 if nbytes * 1.05 > zipfile.ZIP64_LIMIT else 0
    start = archive.start_dir + _HEADER + len(info.filename.encode()) + 4 + large
    padding = -start % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w") as entry:
        for block in contents(data):
            entry.write(block)
            advance(len(block))


def _tensors(held: Sequence[Storage]) -> Iterator[tuple[str, bytes]]:
    for key, storage in enumerate(held):
        for view in storage.views:
            yield view.piece.name, b"".join(_tensor(storage, key, view))


def _tensor(storage: Storage, key: int, view: TiedView) -> Iterator[bytes]:
    """``_rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())`` of torch._utils."""
    typed = _TYPES.get(storage.dtype.name)
    yield _global("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
    yield b"(("
    yield _text("storage")
    yield _global("torch", typed) if typed else _global("torch.storage", "UntypedStorage")
    yield _text(str(key)) + _text("cpu")
    yield _number(storage.nbytes // (storage.dtype.bits // 8) if typed else storage.nbytes)
    yield b"tQ" + _number(view.offset) + _numbers(view.piece.shape) + _numbers(view.strides)
    yield b"\x89" + _ORDERED_DICT
    yield b"" if typed else _dtype(storage.dtype)
    yield b"tR"


def _pickle(tensors: Sequence[tuple[str, bytes]], metadata: Mapping[str, Mapping[str, object]]) -> Iterator[bytes]:
    """Protocol 2, as torch writes it: OrderedDict, its items, then ``_metadata`` as its state."""
    yield _PROTOCOL + _ORDERED_DICT
    for name, tensor in tensors:
        yield _text(name) + tensor + b"s"
    yield b"}" + _text("_metadata") + b"}"
    for module, values in metadata.items():
        yield _text(module) + b"}"
        for key, value in values.items():
            yield _text(key) + (_number(value) if isinstance(value, int) else _text(str(value))) + b"s"
        yield b"s"
    yield b"sb."


def _beside(numbers: Mapping[str, int], state_dict: bytes) -> bytes:
    """A dict of some numbers and, under ``model``, of what another pickle holds."""
    inner = state_dict.removeprefix(_PROTOCOL).removesuffix(b".")
    held = b"".join(_text(key) + _number(value) + b"s" for key, value in numbers.items())
    return _PROTOCOL + b"}" + held + _text("model") + inner + b"s."


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _dtype(dtype: DType) -> bytes:
    return _global("torch", dtype.name)


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _numbers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"


_ORDERED_DICT = _global("collections", "OrderedDict") + b")R"
