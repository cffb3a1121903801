"""Find which stored rows a library uses as Q, K and V of which head, by watching it compute attention.

Nothing here knows a packing. The library's own module runs in float64 on random weights while two kinds of
call are recorded:

* projections (``functional.linear``, convolutions, ``torch.addmm``, matrix products) whose weight is a view of a stored
  tensor under test. Their input times every single stored row, plus the bias that was passed, is that row's
  *activation* at every token;
* products (scaled_dot_product_attention, matmul, bmm, baddbmm, einsum and their method forms), whose operands
  are what reaches attention.

Every element of an operand is then looked up among all activations. Random float64 numbers coincide only if
they are the same number, so the element names the stored row (and the token) that it came from, whatever
reshapes, window partitions and repeats lie between. One positive factor per operand is allowed (the softmax
scale), or, for normalised q and k, one per vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Array = np.ndarray
RowId = tuple[str, int]


class ProofError(Exception):
    """The operands could not be traced back to stored rows."""


@dataclass(frozen=True)
class Projection:
    """One use of a stored tensor: what went in, which stored rows were applied, and the bias."""

    key: str
    rows: tuple[int, ...]
    inputs: Array  # [tokens, in]
    weight: Array  # [rows, in], as passed
    bias: Array | None


@dataclass(frozen=True)
class Product:
    """Operands of one product, the last axis of each being the channels of a head."""

    kind: str
    operands: tuple[Array, ...]


@dataclass
class Recording:
    projections: list[Projection] = field(default_factory=list[Projection])
    products: list[Product] = field(default_factory=list[Product])


def reinitialise(module: nn.Module, seed: int = 0, keep: Callable[[str], bool] = lambda _: False) -> None:
    """Give every parameter values of N(0, .3), so that no row is zero or like another.

    Args:
        keep: names of parameters to leave alone (gains of norms that must stay 1).
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not keep(name):
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, 0.3, generator=generator))


def to_numpy(tensor: Tensor) -> Array:
    return tensor.detach().to(torch.float64).cpu().contiguous().numpy().copy()


class Watcher:
    """Records projections by the given parameters, and every product."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = parameters
        self.storages = {tensor.untyped_storage().data_ptr(): key for key, tensor in parameters.items()}
        self.recording = Recording()
        self._depth = 0

    def projection(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, out_axis: int = 0) -> None:
        """Note a projection, if ``weight`` is a view of a parameter."""
        if not isinstance(weight, Tensor) or not weight.numel():
            return
        key = self.storages.get(weight.untyped_storage().data_ptr())
        if key is None:
            return
        parameter = self.parameters[key]
        if parameter.dim() == 2 and out_axis == 1 and weight.shape != parameter.shape:
            return
        start = weight.storage_offset() // parameter.stride(0) if weight.shape != parameter.shape else 0
        matrix = weight.detach().reshape(weight.shape[0], -1) if out_axis == 0 else weight.detach().t()
        rows = tuple(range(start, start + matrix.shape[0]))
        flat = inputs.detach().reshape(-1, inputs.shape[-1])
        if flat.shape[1] != matrix.shape[1]:
            return
        self.recording.projections.append(
            Projection(key, rows, to_numpy(flat), to_numpy(matrix), None if bias is None else to_numpy(bias))
        )

    def product(self, kind: str, *operands: Tensor) -> None:
        if all(isinstance(o, Tensor) and o.is_floating_point() and o.dim() > 1 for o in operands):
            self.recording.products.append(Product(kind, tuple(map(to_numpy, operands))))


def _linear(watcher: Watcher, real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        watcher.projection(input, weight, bias)
        return real(input, weight, bias)

    return linear


def _addmm(watcher: Watcher, real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def addmm(bias: Tensor, input: Tensor, weight: Tensor, **kwargs: object) -> Tensor:
        watcher.projection(input, weight, bias, out_axis=1)
        return real(bias, input, weight, **kwargs)

    return addmm


def _conv(watcher: Watcher, real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def conv(input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: object, **kwargs: object) -> Tensor:
        watcher.projection(input.movedim(1, -1), weight, bias)
        return real(input, weight, bias, *args, **kwargs)

    return conv


def _matmul(watcher: Watcher, real: Callable[..., Tensor], swap: bool = False) -> Callable[..., Tensor]:
    def matmul(a: Tensor, b: Tensor, **kwargs: object) -> Tensor:
        first, second = (b, a) if swap else (a, b)
        if isinstance(second, Tensor) and second.dim() == 2 and first.shape[-1] == second.shape[0]:
            watcher.projection(first, second.t(), None)
        watcher.product("matmul", first, second)
        return real(a, b, **kwargs)

    return matmul


def _baddbmm(watcher: Watcher, real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, **kwargs: object) -> Tensor:
        watcher.product("matmul", batch1, batch2)
        return real(input, batch1, batch2, **kwargs)

    return baddbmm


def _einsum(watcher: Watcher, real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def einsum(equation: str, operands: list[Tensor], **kwargs: object) -> Tensor:
        if len(operands) == 2:
            watcher.product("einsum", *operands)
        return real(equation, operands, **kwargs)

    return einsum


def _sdpa(watcher: Watcher, real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, *a: object, **kw: object) -> Tensor:
        watcher.product("sdpa", query, key, value)
        return real(query, key, value, *a, **kw)

    return scaled_dot_product_attention


@contextmanager
def watching(parameters: Mapping[str, Tensor]) -> Iterator[Recording]:
    """Record what runs inside the block."""
    watcher = Watcher(parameters)
    patches: list[tuple[object, str, Callable[..., object]]] = [
        (functional, "linear", _linear(watcher, functional.linear)),
        (functional, "conv1d", _conv(watcher, functional.conv1d)),
        (functional, "conv2d", _conv(watcher, functional.conv2d)),
        (functional, "scaled_dot_product_attention", _sdpa(watcher, functional.scaled_dot_product_attention)),
        (torch, "addmm", _addmm(watcher, torch.addmm)),
        (torch, "matmul", _matmul(watcher, torch.matmul)),
        (torch, "bmm", _matmul(watcher, torch.bmm)),
        (torch, "baddbmm", _baddbmm(watcher, torch.baddbmm)),
        (torch.functional._VF, "einsum", _einsum(watcher, torch.functional._VF.einsum)),  # under torch.einsum
        (Tensor, "matmul", _matmul(watcher, Tensor.matmul)),
        (Tensor, "bmm", _matmul(watcher, Tensor.bmm)),
        (Tensor, "baddbmm", _baddbmm(watcher, Tensor.baddbmm)),
        (Tensor, "__matmul__", _matmul(watcher, Tensor.__matmul__)),
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with ExitStack() as stack:
        for owner, name, replacement in patches:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        yield watcher.recording


@dataclass(frozen=True)
class Activations:
    """Every stored row's output at every token."""

    ids: tuple[RowId, ...]
    table: Array  # [tokens, ids]; NaN where a row saw fewer tokens


def activations(projections: list[Projection], post: Callable[[Tensor], Tensor] | None = None) -> Activations:
    """Apply every stored row on its own to the recorded inputs."""
    columns: list[Array] = []
    ids: list[RowId] = []
    for projection in projections:
        for index, row in enumerate(projection.rows):
            value = projection.inputs @ projection.weight[index]
            if projection.bias is not None:
                value = value + projection.bias[index]
            columns.append(value if post is None else to_numpy(post(torch.from_numpy(value))))
            ids.append((projection.key, row))
    tokens = max(map(len, columns), default=0)
    table = np.full((tokens, len(columns)), np.nan)
    for index, column in enumerate(columns):
        table[: len(column), index] = column
    return Activations(tuple(ids), table)
