"""What torch puts into its pickles: storages and the calls that rebuild tensors (torch/_utils.py, 2.13)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from qkvinspect.codes import Code
from qkvinspect.dtypes import DTYPES, DType
from qkvinspect.errors import CheckpointError
from qkvinspect.formats.pickle import Call, Global, Persistent
from qkvinspect.model import Region, TensorInfo

STORAGES: dict[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt32Storage": "qint32",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
"""torch's typed storages; an UntypedStorage counts bytes and leaves the dtype to _rebuild_tensor_v3."""

_STRIDED = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor"}
_PARAMETERS = {"_rebuild_parameter", "_rebuild_parameter_with_state"}
_WITHOUT_BYTES = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor on the meta device, without data",
    "_rebuild_wrapper_subclass": "a tensor subclass",
    "_rebuild_device_tensor_from_numpy": "a tensor saved through numpy",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
}
_MAX_RANK = 64
_MAX_EXPANSION = 1 << 30  # bytes that a smaller storage may be expanded to

FindStorage = Callable[[str], Region]


def is_tensor(node: object) -> bool:
    """Whether a node of the pickle stands for a tensor or parameter."""
    return isinstance(node, Call) and _function(node) in {
        *_STRIDED,
        *_PARAMETERS,
        *_WITHOUT_BYTES,
        "_rebuild_from_type_v2",
    }


def unreadable(node: object) -> str | None:
    """Why a tensor node has no bytes of its own to show, or None if it has."""
    node = _unwrap(node)
    if isinstance(node, Call) and _function(node) in _STRIDED:
        flags = _metadata(node)
        return "a tensor with a lazy conjugate or negative bit" if flags else None
    return _WITHOUT_BYTES.get(_function(node), "a tensor of an unknown kind")


def tensor_info(
    node: object, name: str, file: str, byteorder: Literal["little", "big"], find: FindStorage
) -> TensorInfo:
    """The tensor that a (readable) node stands for.

    Args:
        find: gives the bytes of a storage by its key.

    Raises:
        CheckpointError: the node is malformed, or reaches past its storage.
    """
    inner = _unwrap(node)
    arguments = _tuple(inner.arguments if isinstance(inner, Call) else None)
    function = _function(inner)
    if len(arguments) < 4:
        raise _malformed(Code.TENSOR_ARGUMENTS, "a tensor without storage, offset, size and stride", name, file)
    storage, offset, size, stride = arguments[:4]
    region, dtype = _storage(storage, name, file, find)
    if function == "_rebuild_tensor_v3":
        dtype = _named_dtype(arguments[6] if len(arguments) > 6 else None, name, file)
    if dtype is None:
        raise _malformed(Code.TENSOR_DTYPE, "an untyped storage without a dtype", name, file)
    shape, strides = _sizes(size, name, file), _sizes(stride, name, file)
    if len(shape) != len(strides) or not isinstance(offset, int) or offset < 0:
        raise _malformed(Code.TENSOR_SHAPE, "a shape, stride or offset that cannot be", name, file)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    needed = dtype.nbytes(last + 1) if all(shape) else 0
    if needed > region.nbytes:
        raise CheckpointError(
            "tensor reaches past its storage",
            code=Code.TENSOR_RANGE,
            file=file,
            tensor=name,
            expected=f"at most {region.nbytes} bytes",
            found=f"{needed} bytes for shape {list(shape)}, stride {list(strides)}, offset {offset}",
            hint="the file is damaged",
        )
    info = TensorInfo(name, dtype, shape, strides, region, offset, byteorder)
    if info.nbytes > max(_MAX_EXPANSION, region.nbytes):
        raise CheckpointError(
            "tensor is an expansion of a much smaller storage",
            code=Code.LIMIT_EXPANSION,
            file=file,
            tensor=name,
            expected=f"at most {_MAX_EXPANSION} bytes",
            found=f"{info.nbytes} bytes made of {region.nbytes}",
        )
    return info


@dataclass(frozen=True, slots=True)
class StorageId:
    """What a pickle says of a storage: ``('storage', Type, key, location, numel, view)``.

    Attributes:
        kind: the storage's class.
        dtype: None where the class is untyped, or not known.
        numel: elements; bytes where the class is untyped.
        view: (key, offset, size) if it is part of another storage; empty if not.
    """

    kind: Global
    key: str
    dtype: DType | None
    numel: int
    view: tuple[object, ...]

    @property
    def nbytes(self) -> int:
        return self.numel if self.dtype is None else self.dtype.nbytes(self.numel)


def storage_id(node: object) -> StorageId | None:
    """The storage that a persistent id stands for, or None if it stands for something else."""
    parts = _tuple(node.id) if isinstance(node, Persistent) else ()
    if len(parts) < 5 or parts[0] != "storage":
        return None
    kind, key, numel = parts[1], parts[2], parts[4]
    if not isinstance(kind, Global) or not isinstance(key, str) or not isinstance(numel, int) or numel < 0:
        return None
    dtype = DTYPES[STORAGES[kind.name]] if kind.name in STORAGES else None
    return StorageId(kind, key, dtype, numel, _tuple(parts[5]) if len(parts) > 5 else ())


def _storage(node: object, name: str, file: str, find: FindStorage) -> tuple[Region, DType | None]:
    """The bytes and dtype (None: untyped) of a storage."""
    storage = storage_id(node)
    if storage is None:
        raise _malformed(Code.STORAGE_ID, "a storage that is not described as torch does", name, file)
    if storage.dtype is None and storage.kind.name != "UntypedStorage":
        raise CheckpointError(
            "storage of an unknown type",
            code=Code.STORAGE_TYPE,
            file=file,
            tensor=name,
            expected="one of torch's storages",
            found=str(storage.kind),
        )
    region = find(storage.key)
    if region.nbytes != storage.nbytes:
        raise CheckpointError(
            f"storage {storage.key!r} has another size than its pickle says",
            code=Code.STORAGE_SIZE,
            file=file,
            tensor=name,
            expected=f"{storage.nbytes} bytes",
            found=f"{region.nbytes} bytes",
            hint="the file is damaged",
        )
    if storage.view and storage.dtype is not None:
        region = _view(region, storage.dtype, storage.view, name, file)
    return region, storage.dtype


def _view(region: Region, dtype: DType, view: tuple[object, ...], name: str, file: str) -> Region:
    """Part of a storage, as torch before 0.4 and the legacy format say it: (key, offset, size), in elements."""
    match view:
        case (_, int(offset), int(size)) if 0 <= offset <= offset + size:
            start, nbytes = dtype.nbytes(offset), dtype.nbytes(size)
        case _:
            raise _malformed(Code.STORAGE_VIEW, "a view of a storage without offset and size", name, file)
    if start + nbytes > region.nbytes:
        raise _malformed(Code.STORAGE_VIEW, "a view that reaches past its storage", name, file)
    return Region(region.source, lambda: region.start + start, nbytes)


def _unwrap(node: object) -> object:
    """Follow parameters and tensor subclasses to the call that rebuilds the plain tensor."""
    for _ in range(8):
        if not isinstance(node, Call):
            break
        arguments = _tuple(node.arguments)
        if _function(node) in _PARAMETERS and arguments:
            node = arguments[0]
        elif _function(node) == "_rebuild_from_type_v2" and len(arguments) > 2:
            node = Call(arguments[0], arguments[2])
        else:
            break
    return node


def _metadata(node: Call) -> bool:
    """Whether the optional last argument sets a conjugate or negative bit."""
    position = {"_rebuild_tensor_v2": 6, "_rebuild_tensor_v3": 7}.get(_function(node))
    arguments = _tuple(node.arguments)
    flags = arguments[position] if position is not None and len(arguments) > position else None
    return isinstance(flags, dict) and any(cast("dict[object, object]", flags).values())


def _function(node: object) -> str:
    """The name of the torch function a node calls, or ""."""
    if not isinstance(node, Call) or not isinstance(node.function, Global):
        return ""
    return node.function.name if node.function.module in ("torch._utils", "torch._tensor") else ""


def _named_dtype(node: object, name: str, file: str) -> DType:
    if isinstance(node, Global) and node.module == "torch" and node.name in DTYPES:
        return DTYPES[node.name]
    raise CheckpointError(
        "tensor of an unknown dtype",
        code=Code.TENSOR_DTYPE,
        file=file,
        tensor=name,
        expected="a dtype of torch 2.13",
        found=str(node) if isinstance(node, Global) else f"a {type(node).__name__}",
    )


def _sizes(node: object, name: str, file: str) -> tuple[int, ...]:
    if isinstance(node, Call) and node.function == Global("torch", "Size"):
        node = (_tuple(node.arguments) or ((),))[0]
    sizes = _tuple(node)
    if not isinstance(node, (tuple, list)) or len(sizes) > _MAX_RANK:
        raise _malformed(Code.TENSOR_SHAPE, "a shape that is not a tuple of sizes", name, file)
    if not all(type(size) is int and 0 <= size < 1 << 63 for size in sizes):
        raise _malformed(Code.TENSOR_SHAPE, "a negative, huge or non-integer size", name, file)
    return cast("tuple[int, ...]", sizes)


def _tuple(node: object) -> tuple[object, ...]:
    return tuple(cast("list[object]", node)) if isinstance(node, (tuple, list)) else ()


def _malformed(code: Code, what: str, name: str, file: str) -> CheckpointError:
    return CheckpointError(f"pickle describes {what}", code=code, file=file, tensor=name, hint="the file is damaged")
