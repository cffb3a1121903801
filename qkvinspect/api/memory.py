"""A state_dict or a model in memory as a checkpoint: its tensors are read where they lie."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from qkvinspect.checkpoint import ByteSource, Checkpoint, Config, Region, TensorInfo
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import UsageError
from qkvinspect.parsed import is_mapping, with_text_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class Model(Protocol):
    """What is asked of an nn.Module."""

    def state_dict(self) -> Mapping[str, object]: ...

    def named_modules(self) -> Iterable[tuple[str, object]]: ...


class _Memory:
    """Where regions lie that are in no file: their offsets are addresses, so that shared ones are known as such."""

    name = "memory"
    size = 0

    def read(self, offset: int, length: int) -> bytes:
        raise NotImplementedError("a region in memory reads itself")

    def relative(self, name: str) -> ByteSource:
        raise NotImplementedError("nothing lies beside it")

    def siblings(self) -> tuple[str, ...]:
        return ()

    def check(self) -> None:
        """Its owner may change it at any time."""

    def close(self) -> None:
        """Its owner keeps it."""


_MEMORY = _Memory()


class _InMemory(Region):
    """Bytes that are in no file."""

    def place(self, offset: int) -> None:
        """Nowhere in a file that could be copied from."""


class _TorchStorage(_InMemory):
    """The storage of a torch tensor, on whatever device."""

    def __init__(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        super().__init__(_MEMORY, storage.data_ptr(), storage.nbytes())
        self._tensor = tensor

    def read(self, offset: int, length: int) -> bytes:
        import torch

        storage = self._tensor.untyped_storage()
        every = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        return every[offset : offset + length].cpu().numpy().tobytes()


class _Array(_InMemory):
    """The bytes of a numpy array, row-major."""

    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__(_MEMORY, array.ctypes.data, array.nbytes)
        self._array = array

    def read(self, offset: int, length: int) -> bytes:
        return self._array.reshape(-1).view("uint8")[offset : offset + length].tobytes()


def is_module(value: object) -> TypeGuard[Model]:
    """Whether it is an nn.Module; who has one has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def of_state_dict(state_dict: Mapping[str, object], config: Mapping[str, object] | None = None) -> Checkpoint:
    """A checkpoint of tensors, or of numpy arrays, by name.

    Args:
        config: hyper-parameters of the model, as in its ``config.json``.

    Raises:
        UsageError: a value is neither, or its memory cannot be read.
    """
    tensors = {name: tensor_info(name, value) for name, value in state_dict.items()}
    configs = (Config("config:given", with_text_keys(config)),) if config else ()
    num_bytes = sum(info.nbytes for info in tensors.values())
    return Checkpoint("a state_dict in memory", "memory", num_bytes, tensors, configs=configs, loader="memory")


def of_module(module: Model, config: Mapping[str, object] | None = None) -> Checkpoint:
    """A checkpoint of what a model holds now; its attributes and its config tell the number of heads.

    Args:
        config: hyper-parameters to trust before its own.

    Raises:
        UsageError: a parameter's memory cannot be read.
    """
    state = {name: value for name, value in module.state_dict().items() if _is_tensor(value)}
    found = of_state_dict(state, config)
    found.path = f"{type(module).__name__} in memory"
    found.modules = dict(_attributes_of(module))
    found.configs = (*found.configs, *_configs(module))
    return found


def require_tensors(values: Mapping[str, object]) -> None:
    """Refuse whatever is no torch tensor.

    Raises:
        UsageError: a value is none.
    """
    for name, value in values.items():
        if not _is_tensor(value):
            raise UsageError(f"{name} is no tensor", found=type(value).__name__, hint="leave it out")


def tensor_info(name: str, value: object) -> TensorInfo:
    """Where a tensor or an array lies; nothing of it is copied unless an array is not row-major.

    Raises:
        UsageError: it is neither, or its memory cannot be read.
    """
    if _is_tensor(value):
        return _of_tensor(name, value)
    if _is_array(value):
        return _of_array(name, value)
    if is_mapping(value) and any(map(_is_tensor, value.values())):
        raise UsageError(f"{name} is no tensor", found="a dict of tensors", hint=f"give that one: [{name!r}]")
    raise UsageError(f"{name} is no tensor", found=type(value).__name__, hint="leave it out")


def _of_tensor(name: str, tensor: Tensor) -> TensorInfo:
    import torch

    dtype = DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None or tensor.layout is not torch.strided or tensor.device.type == "meta":
        found = f"{tensor.dtype}, {tensor.layout} on {tensor.device}"
        raise UsageError(f"{name} is no plain tensor", found=found, hint="leave it out")
    region = _TorchStorage(tensor)
    return TensorInfo(name, dtype, tuple(tensor.shape), tensor.stride(), region, int(tensor.storage_offset()))


def _of_array(name: str, array: NDArray[Any]) -> TensorInfo:
    import numpy as np

    dtype = DTYPES.get(array.dtype.name)
    if dtype is None:
        raise UsageError(f"{name} is no plain array", found=str(array.dtype), hint="leave it out")
    order = "big" if array.dtype.byteorder == ">" else "little"
    whole = np.ascontiguousarray(array).reshape(array.shape)
    strides = tuple(step // whole.itemsize for step in whole.strides)
    return TensorInfo(name, dtype, whole.shape, strides, _Array(whole), byteorder=order)


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_array(value: object) -> TypeGuard[NDArray[Any]]:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _attributes_of(module: Model) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Whole numbers that a module and those in it have for attributes, such as ``num_heads``."""
    for name, child in module.named_modules():
        held = vars(child).items()
        yield name, {key: value for key, value in held if isinstance(value, int) and not key.startswith("_")}


def _attributes(config: object) -> object:
    """Those of a plain object, as people who write their own models have it."""
    return getattr(config, "__dict__", None)


def _configs(module: Model) -> Iterator[Config]:
    """``model.config`` of transformers, diffusers and those who do as they do."""
    config: object = getattr(module, "config", None)
    to_dict = getattr(config, "to_dict", None)
    values: object = to_dict() if callable(to_dict) else config if is_mapping(config) else _attributes(config)
    if is_mapping(values) and values:
        yield Config("checkpoint:config", with_text_keys(values), inside=True)
