"""What torch puts into its pickles: the calls that rebuild tensors (torch/_utils.py, 2.13)."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Literal, TypeGuard

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.dtypes import DTYPES, DType
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.pickle import Call, Global, TensorCall, is_dict, is_sequence
from qkvinspect.formats.torch_storages import FindStorage, StorageId, malformed, storage_id, storage_region

_STRIDED = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor"}
_PARAMETERS = {"_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter", "Variable"}
_WITHOUT_BYTES = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor on the meta device, without data",
    "_rebuild_wrapper_subclass": "a tensor subclass",
    "_rebuild_device_tensor_from_numpy": "a tensor saved through numpy",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
}
_TENSORS = frozenset({*_STRIDED, *_PARAMETERS, *_WITHOUT_BYTES, "_rebuild_from_type_v2"})
_MODULES = ("torch._utils", "torch._tensor", "torch.nn.parameter", "torch.autograd.variable")
_MAX_RANK = 64


def is_tensor(node: object) -> bool:
    """Whether a node of the pickle stands for a tensor or parameter."""
    return type(node) is TensorCall or (type(node) is Call and function_of(node) in _TENSORS)


def unreadable(node: object) -> str | None:
    """Why a tensor node has no bytes of its own to show, or None if it has."""
    if type(node) is TensorCall:
        return None
    node = _unwrap(node)
    if isinstance(node, Call) and function_of(node) in _STRIDED:
        return "a tensor with a lazy conjugate or negative bit" if _metadata(node) else None
    return _WITHOUT_BYTES.get(function_of(node), "a tensor of an unknown kind")


def tensor_info(
    node: object,
    name: str,
    keys: tuple[str, ...],
    file: str,
    byteorder: Literal["little", "big"],
    find: FindStorage,
    limits: Limits,
) -> TensorInfo:
    """The tensor that a (readable) node stands for.

    Args:
        keys: how to reach it in the unpickled object.
        find: gives the bytes of a storage by its key.

    Raises:
        CheckpointError: the node is malformed, or reaches past its storage.
    """
    storage, offset, shape, strides, dtype = _strided(node, name, file)
    region = storage_region(storage, name, file, find)
    dtype = dtype or storage.dtype
    if dtype is None:
        raise malformed(Code.TENSOR_DTYPE, "an untyped storage without a dtype", name, file)
    numel, reach = _extent(shape, strides)
    needed = dtype.nbytes(offset + reach + 1) if numel else 0
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
    nbytes = dtype.nbytes(numel)
    if nbytes > region.nbytes:
        limits.check("expansion", nbytes, file, name)
    return TensorInfo(name, dtype, shape, strides, region, offset, byteorder, keys)


@lru_cache(1 << 12)
def _extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """The number of elements, and the steps from the first to the farthest."""
    return prod(shape), sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


class _Strided(NamedTuple):
    """The arguments of a call that rebuilds a tensor; dtype is None where the storage has it."""

    storage: StorageId
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DType | None = None


def _strided(node: object, name: str, file: str) -> _Strided:
    node = node if type(node) is TensorCall else _unwrap(node)
    if isinstance(node, TensorCall):
        key, numel, offset, shape, strides = node.values
        if len(shape) != len(strides):
            raise malformed(Code.TENSOR_SHAPE, "a shape and a stride of different ranks", name, file)
        return _Strided(StorageId(node.kind, key, numel), offset, shape, strides)
    arguments = _tuple(node.arguments if isinstance(node, Call) else None)
    if len(arguments) < 4:
        raise malformed(Code.TENSOR_ARGUMENTS, "a tensor without storage, offset, size and stride", name, file)
    storage, offset = storage_id(arguments[0]), arguments[1]
    if storage is None:
        raise malformed(Code.STORAGE_ID, "a storage that is not described as torch does", name, file)
    shape, strides = sizes_of(arguments[2], name, file), sizes_of(arguments[3], name, file)
    if len(shape) != len(strides) or type(offset) is not int or not 0 <= offset < 1 << 63:
        raise malformed(Code.TENSOR_SHAPE, "a shape, stride or offset that cannot be", name, file)
    dtype = None
    if function_of(node) == "_rebuild_tensor_v3":
        dtype = named_dtype(arguments[6] if len(arguments) > 6 else None, name, file)
    return _Strided(storage, offset, shape, strides, dtype)


def _unwrap(node: object) -> object:
    """Follow parameters and tensor subclasses to the call that rebuilds the plain tensor."""
    for _ in range(8):
        if type(node) is not Call:
            break
        arguments = _tuple(node.arguments)
        state = _tuple(node.state)
        if function_of(node) in _PARAMETERS and (arguments or len(state) == 5):
            node = state[0] if len(state) == 5 else arguments[0]  # five fields: as torch before 0.1.7 pickled one
        elif function_of(node) == "_rebuild_from_type_v2" and len(arguments) > 2:
            node = Call(arguments[0], arguments[2])
        else:
            break
    return node


def _metadata(node: Call) -> bool:
    """Whether the optional last argument sets a conjugate or negative bit."""
    position = {"_rebuild_tensor_v2": 6, "_rebuild_tensor_v3": 7}.get(function_of(node))
    arguments = _tuple(node.arguments)
    flags = arguments[position] if position is not None and len(arguments) > position else None
    return is_dict(flags) and any(flags.values())


def function_of(node: object) -> str:
    """The name of the torch function a node calls, or ""."""
    if not isinstance(node, Call) or not isinstance(node.function, Global):
        return ""
    return node.function.name if node.function.module in _MODULES else ""


def named_dtype(node: object, name: str, file: str) -> DType:
    """The dtype that a node names, as ``torch.float32``."""
    if isinstance(node, Global) and node.module == "torch" and node.name in DTYPES:
        return DTYPES[node.name]
    raise CheckpointError(
        "tensor of an unknown dtype",
        code=Code.TENSOR_DTYPE,
        file=file,
        tensor=name,
        expected="a dtype of torch 2.13",
        found=str(node) if isinstance(node, Global) else f"a {type(node).__name__}",
        hint="the file is damaged, or of a newer torch than this tool knows",
    )


def sizes_of(node: object, name: str, file: str) -> tuple[int, ...]:
    """A tuple of sizes, or a torch.Size."""
    if isinstance(node, Call) and node.function == Global("torch", "Size"):
        node = (_tuple(node.arguments) or ((),))[0]
    sizes = _tuple(node)
    if not is_sequence(node) or len(sizes) > _MAX_RANK:
        raise malformed(Code.TENSOR_SHAPE, "a shape that is not a tuple of sizes", name, file)
    if not _are_sizes(sizes):
        raise malformed(Code.TENSOR_SHAPE, "a negative, huge or non-integer size", name, file)
    return sizes


def _are_sizes(items: tuple[object, ...]) -> TypeGuard[tuple[int, ...]]:
    return all(type(item) is int and 0 <= item < 1 << 63 for item in items)


def arguments_of(node: Call) -> tuple[object, ...]:
    """What a call is given, () where the file does not say it in order."""
    return _tuple(node.arguments)


def _tuple(node: object) -> tuple[object, ...]:
    return tuple(node) if is_sequence(node) else ()
