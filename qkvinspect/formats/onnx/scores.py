"""Scores: the products of two projections, before and after the softmax that makes them weights of attention."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.formats.onnx import views as moved
from qkvinspect.formats.onnx.graph import Node
from qkvinspect.formats.onnx.products import order_of
from qkvinspect.formats.onnx.views import LostError, View


@dataclass(frozen=True, slots=True)
class Scores:
    """Products of two projections.

    Attributes:
        left, right: what was multiplied, with what is summed over among their last two axes.
        rows, columns: the axes of the result, from its end, that run over the one's and over the other's.
        keys: the one of the two over which a softmax made the sum one; None before it.
    """

    left: tuple[View, ...]
    right: tuple[View, ...]
    rows: int = -2
    columns: int = -1
    keys: int | None = None


def context(scores: Scores) -> list[tuple[View, View]]:
    """K and V where they are products of these over all tokens, which attention without a softmax of scores takes Q to.

    Nothing where they are not.
    """
    left, right = scores.left[0], scores.right[0]
    kept = [bool(moved.rows_of_axis(axis)) for axis in (*left.axes[-2:], *right.axes[-2:])]
    if kept != [True, False, False, True] or len(scores.left) > 1 or len(scores.right) > 1:
        return []
    rank = len(left.axes)
    return [(moved.transposed(left, (*range(rank - 2), rank - 1, rank - 2)), right)]


def turned(node: Node, slot: int, scores: Scores) -> Scores:
    """The same scores, as MatMul takes them.

    Raises:
        LostError: their tokens are taken for something else.
    """
    if node.op == "FusedMatMul":
        order = order_of(node, slot, 4)
        if order == (0, 1, 3, 2):
            return permuted(scores, order)
        if order != (0, 1, 2, 3):
            raise LostError
    return scores


def permuted(scores: Scores, order: Sequence[int]) -> Scores:
    """Those whose axes were put in another order."""
    rank = len(order)
    rows, columns = (order.index(axis % rank) - rank for axis in (scores.rows, scores.columns))
    keys = scores.keys if scores.keys is None else order.index(scores.keys % rank) - rank
    return replace(scores, rows=rows, columns=columns, keys=keys)
