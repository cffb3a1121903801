"""Which rows attention operators take for Q, K and V of each head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.fast_dataclass import replace
from qkvinspect.formats.onnx import cuts
from qkvinspect.formats.onnx import views as moved
from qkvinspect.formats.onnx.graph import Node
from qkvinspect.formats.onnx.views import LostError, View

_HEADS = {
    ("MultiHeadAttention", True): ("num_heads", "num_heads"),
    ("DecoderMaskedMultiHeadAttention", True): ("num_heads", "num_heads"),
    ("GroupQueryAttention", True): ("num_heads", "kv_num_heads"),
    ("Attention", False): ("q_num_heads", "kv_num_heads"),
}
"""By name, and whether it is of onnxruntime; its Attention holds the projections itself."""

Taken = tuple[Sequence[View], Sequence[View], Sequence[View]]


def is_attention(node: Node) -> bool:
    return (node.op, bool(node.domain)) in _HEADS


def taken(node: Node, given: Sequence[Sequence[View]]) -> Taken:
    """Q, K and V with heads along their last axis but two.

    Raises:
        LostError: they have no such form.
    """
    heads, kv_heads = (node.numbers.get(key, (0,))[0] for key in _HEADS[node.op, bool(node.domain)])
    q, k, v = (given[slot] if slot < len(given) else () for slot in range(3))
    if any(view.alone for views in (q, k, v) for view in views):
        raise LostError
    if q and not any(node.inputs[1:3]):
        packed = [_packed(view, heads, kv_heads) for view in q]
        q, k, v = ([each[part] for each in packed] for part in range(3))
    elif k and not node.input(2):
        both = [(_at(view, 3, 0), _at(view, 3, 1)) for view in k]
        k, v = [one for one, _ in both], [other for _, other in both]
    q = [_by_head(view, heads) for view in q]
    k, v = ([_by_head(view, kv_heads) for view in views] for views in (k, v))
    if node.numbers.get("do_rotary", (0,))[0]:
        q, k = ([*_rotated(node, views)] for views in (q, k))
    return q, k, v


def _rotated(node: Node, views: Sequence[View]) -> Iterator[View]:
    for view in views:
        paired = node.numbers.get("rotary_interleaved", (0,))[0]
        yield replace(view, turn=1 if paired else moved.count(view.axes[-1]) // 2)


def _packed(view: View, heads: int, kv_heads: int) -> tuple[View, View, View]:
    """[batch, tokens, heads, 3, width], or [batch, tokens, rows] of Q, then K, then V."""
    if len(view.axes) == 5:
        return _at(view, 3, 0), _at(view, 3, 1), _at(view, 3, 2)
    rows = moved.count(view.axes[-1])
    if heads < 1 or kv_heads < 1 or rows % (heads + 2 * kv_heads):
        raise LostError
    width = rows // (heads + 2 * kv_heads)
    q, k = heads * width, (heads + kv_heads) * width
    last = len(view.axes) - 1
    return (
        cuts.sliced(view, last, 0, q, 1, q),
        cuts.sliced(view, last, q, k, 1, k - q),
        cuts.sliced(view, last, k, rows, 1, rows - k),
    )


def _at(view: View, axis: int, place: int) -> View:
    if len(view.axes) <= axis:
        raise LostError
    return moved.without(cuts.sliced(view, axis, place, place + 1, 1, 1), axis)


def _by_head(view: View, heads: int) -> View:
    """[batch, heads, tokens, width], of [batch, tokens, heads * width] or [batch, tokens, heads, width] too."""
    if len(view.axes) == 3 and heads > 0:
        view = moved.reshaped(view, (0, 0, heads, -1))
        return moved.transposed(view, (0, 2, 1, 3))
    if len(view.axes) == 4:
        return view if moved.rows_of_axis(view.axes[1]) else moved.transposed(view, (0, 2, 1, 3))
    raise LostError
