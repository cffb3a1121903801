"""What torch and safetensors themselves read from the same bytes."""

from __future__ import annotations

import io
import pickle
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import safetensors
import torch

from qkvinspect.formats.safetensors import CODES
from tests.hostile.reading import Outcome, Read


def disagreements(data: bytes, found: Outcome) -> list[str] | None:
    """Where the trusted reader of a file gives other tensors than ours; None if it refuses the file."""
    return _safetensors(data, found.tensors) if data[8:9] == b"{" else _torch(data, found)


def accepts(data: bytes) -> bool:
    """Whether torch or safetensors takes a file, whatever it reads."""
    for reader in (safetensors.deserialize, _load):
        with suppress(Exception):  # torch lets everything through, from EOFError to UnicodeDecodeError
            reader(data)
            return True
    return False


class _FewGlobals(pickle.Unpickler):
    """For tars, which torch.load(weights_only=True) does not read: globals that do nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict") or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        return None


_FEW = SimpleNamespace(
    __name__="few", Unpickler=_FewGlobals, load=lambda file, **options: _FewGlobals(file, **options).load()
)


def _load(data: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if data[257:262] != b"ustar":
            return torch.load(io.BytesIO(data), weights_only=True)
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return torch.load(file.name, weights_only=False, pickle_module=_FEW)


def _torch(data: bytes, found: Outcome) -> list[str] | None:
    try:
        whole = _load(data)
    except Exception:  # it lets everything through, from EOFError to UnicodeDecodeError
        return None
    return [
        *(line for name, ours in found.tensors.items() if ours.keys for line in _compare(name, ours, whole)),
        *(f"{name}: only torch has it" for name in _lost(found, whole)),
    ]


def _lost(found: Outcome, whole: Any) -> list[str]:
    """Tensors of a plain state_dict that are neither read nor spoken of."""
    if not isinstance(whole, dict) or any(len(ours.keys) != 1 for ours in found.tensors.values()):
        return []
    theirs = [key for key, value in whole.items() if isinstance(value, torch.Tensor) and str(key) not in found.tensors]
    return [str(key) for key in theirs if not any(_spoken_of(key, line) for line in found.findings)]


def _spoken_of(key: object, line: str) -> bool:
    """A key that is no text has no name to give: what is said of it is its type."""
    return repr(key)[1:-1] in line if isinstance(key, str) else "leads to a tensor" in line


def _compare(name: str, ours: Read, whole: Any) -> list[str]:
    theirs = whole
    for key in ours.keys:
        theirs = _below(theirs, key)
    if not isinstance(theirs, torch.Tensor):
        return [f"{name}: torch has {type(theirs).__name__} there"]
    dtype, shape = str(theirs.dtype).removeprefix("torch."), tuple(theirs.shape)
    if (dtype, shape) != (ours.dtype, ours.shape):
        return [f"{name}: torch has {dtype} {shape}, we {ours.dtype} {ours.shape}"]
    if ours.content is not None and tensor_bytes(theirs) != ours.content:
        return [f"{name}: other bytes than torch's"]
    return []


def _below(node: Any, key: str) -> Any:
    if isinstance(node, dict):
        return next((value for name, value in node.items() if str(name) == key), None)
    return node[int(key)] if isinstance(node, (list, tuple)) else None


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """All bytes of a tensor, row-major."""
    tensor = tensor.int_repr() if tensor.is_quantized else tensor.detach()
    flat = torch.empty(tuple(tensor.shape), dtype=tensor.dtype).copy_(tensor).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _safetensors(data: bytes, tensors: Mapping[str, Read]) -> list[str] | None:
    try:
        theirs = dict(safetensors.deserialize(data))
    except Exception:
        return None
    found = [f"names: {sorted(theirs)}, ours {sorted(tensors)}"] if theirs.keys() != tensors.keys() else []
    for name in theirs.keys() & tensors.keys():
        one, ours = theirs[name], tensors[name]
        if (CODES.get(one["dtype"]), tuple(one["shape"])) != (ours.dtype, ours.shape):
            found.append(f"{name}: safetensors has {one['dtype']} {one['shape']}, we {ours.dtype} {ours.shape}")
        elif ours.content is not None and bytes(one["data"]) != ours.content:
            found.append(f"{name}: other bytes than safetensors'")
    return found
