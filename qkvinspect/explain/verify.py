"""Run the real nn.MultiheadAttention against attention computed from the split parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qkvinspect.checkpoint import Checkpoint, Orientation
from qkvinspect.errors import LayoutError
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import merge
from qkvinspect.sources import is_remote
from qkvinspect.weights.reading import read_rows
from qkvinspect.weights.to_torch import to_torch
from qkvinspect.weights.values import rows_of_values
from qkvinspect.weights.weight import DecodedMatrix, Weight

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-9
"""Largest relative difference that float64 rounding explains."""

_QUERIES, _KEYS, _BATCH = 5, 7, 2


@dataclass(frozen=True, slots=True)
class Verification:
    """How far the two computations are apart.

    Attributes:
        difference: largest absolute difference of any output, in float64.
        scale: largest absolute output.
        num_heads: the heads that both used.
        reader: who read the weights for the real module.
    """

    difference: float
    scale: float
    num_heads: int
    reader: str

    @property
    def agrees(self) -> bool:
        return self.difference <= TOLERANCE * max(self.scale, 1.0)


def verify(checkpoint: Checkpoint, attention: Attention) -> Verification:
    """Load the stored weights into nn.MultiheadAttention, strictly, and compare its output with attention
    computed by hand from the rows that qkvinspect calls Q, K and V of each head.

    The real module is given the tensors by torch's or safetensors' own reader where these accept the file.
    With an unknown number of heads both sides use one head: the rows of Q, K and V are proven, heads are not.

    Raises:
        LayoutError: the layer is no nn.MultiheadAttention.
    """
    import torch

    geometry = attention.geometry
    if attention.layout is None or not attention.layout.nn_multihead or geometry is None:
        raise LayoutError(
            f"layer {attention.layer!r} is not an nn.MultiheadAttention, so there is nothing to run it against",
            found=" or ".join(attention.candidates) or attention.may_be,
        )
    stored = _stored(attention)
    state, reader = _read_by_others(checkpoint, stored)
    embed_dim = attention.embed_dim or 0
    q, k, v = attention.parts
    module = torch.nn.MultiheadAttention(
        embed_dim,
        geometry.num_heads,
        bias=q.bias is not None,
        add_bias_kv="bias_k" in stored,
        kdim=k.in_features,
        vdim=v.in_features,
        dtype=torch.float64,
        batch_first=True,
    ).eval()
    try:
        module.load_state_dict({name: tensor.to(torch.float64) for name, tensor in state.items()}, strict=True)
    except RuntimeError as error:
        raise LayoutError(
            f"nn.MultiheadAttention does not accept the tensors of {attention.layer!r}",
            found=" ".join(str(error).split())[:200],
        ) from error
    generator = torch.Generator().manual_seed(0)

    def inputs(length: int, width: int) -> Tensor:
        return torch.randn(_BATCH, length, width, generator=generator, dtype=torch.float64)

    query, key, value = inputs(_QUERIES, embed_dim), inputs(_KEYS, k.in_features), inputs(_KEYS, v.in_features)
    with torch.no_grad():
        theirs, _ = module(query, key, value, need_weights=False)
        ours = _by_hand(attention, query, key, value, {n: t.to(torch.float64) for n, t in state.items()})
    same = (theirs == ours) | (theirs.isnan() & ours.isnan())
    gap = torch.where(same, 0.0, (theirs - ours).abs())
    return Verification(
        difference=float(gap.max()) if not gap.isnan().any() else math.inf,
        scale=float(theirs.nan_to_num(0.0, 0.0, 0.0).abs().max()),
        num_heads=geometry.num_heads,
        reader=reader,
    )


def _by_hand(attention: Attention, query: Tensor, key: Tensor, value: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Scaled dot-product attention, one head at a time, from the split rows."""
    import torch

    mixed: list[Tensor] = []
    for head in range(len(attention.parts[0].heads)):
        q, k, v = (
            inputs @ _rows(part.weight, part.orientation, (part.heads[head],)).mT
            + (_rows(part.bias, "out_in", (part.bias_heads[head],)).flatten() if part.bias else 0)
            for part, inputs in zip(attention.parts, (query, key, value), strict=True)
        )
        if "bias_k" in state:
            place = slice(head * k.shape[-1], (head + 1) * k.shape[-1])
            k, v = (
                torch.cat([part, state[name][..., place].expand(len(part), 1, -1)], dim=1)
                for part, name in ((k, "bias_k"), (v, "bias_v"))
            )
        weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
        mixed.append(weights @ v)
    output = torch.cat(mixed, dim=-1) @ state["out_proj.weight"].mT
    return output + state["out_proj.bias"] if "out_proj.bias" in state else output


def _rows(weight: Weight, orientation: Orientation, rows: tuple[range, ...]) -> Tensor:
    """Rows of a weight, through our own reader, in float64."""
    import torch

    matrix = weight.as_matrix(orientation)
    if isinstance(matrix, DecodedMatrix):
        return torch.tensor(rows_of_values(matrix, merge(rows)), dtype=torch.float64)
    data = bytearray(b"".join(read_rows(matrix, merge(rows))))
    shape = (sum(map(len, rows)), matrix.cols)
    return to_torch(data, weight.dtype, shape, weight.name).to(torch.float64)


def _stored(attention: Attention) -> dict[str, Weight]:
    """The module's tensors under the names that nn.MultiheadAttention gives them."""
    weights = [*attention.weights, *(weight for weight, _ in attention.extras)]
    found = {weight.name.rpartition(".")[2]: weight for weight in weights}
    if "bias" in attention.tensors:
        found["in_proj_bias"] = attention.biases[0]
    for name, weight in (("out_proj.weight", attention.out), ("out_proj.bias", attention.out_bias)):
        if weight is not None:
            found[name] = weight
    return found


def _read_by_others(checkpoint: Checkpoint, stored: dict[str, Weight]) -> tuple[dict[str, Tensor], str]:
    """The tensors as torch.load (weights_only) or safetensors read them; by ourselves where they refuse."""
    import pickle

    import safetensors
    import torch

    if is_remote(checkpoint.path):
        return _read_by_us(stored), "qkvinspect itself, as it is not on this machine"
    if checkpoint.loader not in ("torch", "safetensors"):  # torch.distributed.checkpoint unpickles with no safeguard
        return _read_by_us(stored), "qkvinspect itself"
    if any(weight.encoding is not None for weight in stored.values()):
        return _read_by_us(stored), "qkvinspect itself, which decoded it"
    infos = {name: weight.require_info() for name, weight in stored.items()}
    try:
        if checkpoint.loader == "torch":
            files = {info.region.source.name for info in infos.values()}
            roots = {file: torch.load(file, weights_only=True, map_location="cpu") for file in files}
            return {name: _follow(roots[i.region.source.name], i.keys) for name, i in infos.items()}, "torch.load"
        state: dict[str, Tensor] = {}
        for name, info in infos.items():
            opened: Any = safetensors.safe_open(info.region.source.name, framework="pt")  # its stubs name no types
            with opened as file:
                state[name] = file.get_tensor(info.name)
        return state, "safetensors"
    except (pickle.UnpicklingError, safetensors.SafetensorError, KeyError, RuntimeError):
        return _read_by_us(stored), "qkvinspect itself (the library refuses the file)"


def _read_by_us(stored: dict[str, Weight]) -> dict[str, Tensor]:
    rows = {name: (range(weight.as_shape("out_in")[0]),) for name, weight in stored.items()}
    return {name: _rows(weight, "out_in", rows[name]).reshape(weight.shape) for name, weight in stored.items()}


def _follow(root: Any, keys: tuple[str, ...]) -> Tensor:
    for key in keys:
        root = root[key]
    return root
