"""Stored bytes as torch tensors. The only core module that imports torch besides verify."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError

if TYPE_CHECKING:
    from torch import Tensor


def to_torch(data: bytearray, dtype: DType, shape: Sequence[int], name: str) -> Tensor:
    """A tensor over little-endian, row-major bytes.

    Raises:
        LayoutError: torch has no such dtype.
    """
    import torch

    torch_name, sizes = dtype.name, list(shape)
    if torch_name == "float4_e2m1fn" and sizes[-1] % 2 == 0:
        torch_name, sizes[-1] = "float4_e2m1fn_x2", sizes[-1] // 2
    if dtype.kind == "opaque" or not isinstance(getattr(torch, torch_name, None), torch.dtype):
        raise LayoutError(f"torch has no plain dtype {dtype.name}", tensor=name, hint="write a .safetensors file")
    if not data:
        return torch.empty(sizes, dtype=getattr(torch, torch_name))
    return torch.frombuffer(data, dtype=torch.uint8).view(getattr(torch, torch_name)).view(sizes)
