"""Split and pack the state_dict of a model in memory, with views of its tensors wherever strides allow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qkvinspect.api.memory import of_state_dict, require_tensors
from qkvinspect.arguments import Texts
from qkvinspect.checkpoint import Orientation
from qkvinspect.export.naming import DEFAULT
from qkvinspect.export.pieces import OutputTensor, RowRun, contents, spans
from qkvinspect.export.plan import Plan, Target, convert_whole, split_whole
from qkvinspect.inspection import for_all, inspect
from qkvinspect.inspection.report import Report
from qkvinspect.layouts import by_id
from qkvinspect.weights.to_torch import to_torch

if TYPE_CHECKING:
    from torch import Tensor


def split(
    state_dict: Mapping[str, Tensor],
    *,
    heads: Texts | None = None,
    layout: str | None = None,
    config: Mapping[str, object] | None = None,
    names: str = DEFAULT,
) -> dict[str, Tensor]:
    """The state_dict with each fused tensor replaced by its parts; tensors that are not attention are the same objects.

    Rows that are contiguous are views of the given tensors; only others (of packings in groups) are copied.

    >>> import torch, qkvinspect
    >>> state = torch.nn.MultiheadAttention(8, 2).state_dict()
    >>> parts = qkvinspect.split(state)
    >>> list(parts)[:3], parts["k_proj.weight"].shape
    (['q_proj.weight', 'q_proj.bias', 'k_proj.weight'], torch.Size([8, 8]))
    >>> parts["k_proj.weight"].untyped_storage().data_ptr() == state["in_proj_weight"].untyped_storage().data_ptr()
    True

    Args:
        heads: as ``open`` takes them: ``8``, ``"32/8"``, ``("12", "decoder.*=8")``, where the packing needs them.
        layout: of every layer, where names do not tell it.
        config: hyper-parameters of the model, as in its ``config.json``.
        names: how to call the parts: ``hf``, ``bert``, ``timm``, ``diffusers``, ``torch`` or a template.

    Raises:
        LayoutError: a layer cannot be split.
        UsageError: a value is no tensor, or an option has no meaning.
    """
    report = _report(state_dict, heads, layout, config)
    return _run(split_whole(report, names=None if names == DEFAULT else names), state_dict)


def pack(
    state_dict: Mapping[str, Tensor],
    layout: str,
    *,
    heads: int = 0,
    kv_heads: int = 0,
    zero_bias: bool = False,
    config: Mapping[str, object] | None = None,
) -> dict[str, Tensor]:
    """The state_dict with the attention of every layer as a layout stores it, the output projection included.

    >>> import torch, qkvinspect
    >>> state = torch.nn.MultiheadAttention(8, 2).state_dict()
    >>> packed = qkvinspect.pack(qkvinspect.split(state), "torch-mha")
    >>> packed.keys() == state.keys() and all(torch.equal(packed[name], state[name]) for name in state)
    True

    Args:
        layout: its id, as ``qkvinspect layouts`` lists them.
        heads, kv_heads: where the packing needs them.
        zero_bias: fill the bias of a part that has none with zeros, where others have one.

    Raises:
        LayoutError: a layer cannot be stored so.
        UsageError: there is no such layout, or a value is no tensor.
    """
    target = Target(by_id(layout), heads, kv_heads, zero_bias)
    return _run(convert_whole(_report(state_dict, None, None, config), target), state_dict)


def _report(
    state_dict: Mapping[str, Tensor], heads: Texts | None, layout: str | None, config: Mapping[str, object] | None
) -> Report:
    require_tensors(state_dict)
    return inspect(of_state_dict(state_dict, config), for_all(heads, layout))


def _run(plan: Plan, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {piece.name: _tensor(piece, state_dict) for piece in plan.pieces}


def _tensor(piece: OutputTensor, state_dict: Mapping[str, Tensor]) -> Tensor:
    import torch

    if piece.whole is not None:
        return state_dict[piece.whole.name]
    if piece.made is not None or any(run.weight is not None and run.weight.encoding is not None for run in piece.runs):
        return to_torch(bytearray(b"".join(contents(spans(piece)))), piece.dtype, piece.shape, piece.name)
    like = state_dict[piece.sources[0].name]
    rows = [_rows(run, state_dict, like) for run in piece.runs]
    whole = rows[0] if len(rows) == 1 else torch.cat(rows)
    if piece.lying != "out_in":
        whole = whole.T
    return whole if whole.shape == piece.shape else whole.reshape(piece.shape)


def _rows(run: RowRun, state_dict: Mapping[str, Tensor], like: Tensor) -> Tensor:
    if run.weight is None:
        return like.new_zeros(len(run.rows))
    matrix = _as_matrix(state_dict[run.weight.name], run.orientation)
    return matrix[run.rows.start : run.rows.stop : run.rows.step]


def _as_matrix(tensor: Tensor, orientation: Orientation) -> Tensor:
    match orientation:
        case "out_in":
            flat = tensor.dim() > 2 and set(tensor.shape[:-1]) == {1}
            return tensor.flatten() if flat or tensor.dim() == 1 else tensor.flatten(1)
        case "in_out":
            return tensor.flatten(0, -2).T
        case "in_heads_dim":
            return tensor.flatten(1).T
