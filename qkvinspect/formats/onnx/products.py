"""Products of an activation and a weight: which operators make them, and how the weight of each lies."""

from __future__ import annotations

from collections.abc import Mapping

from qkvinspect.formats.onnx.graph import Node, Stored

PRODUCTS: Mapping[str, int] = {
    "MatMul": 1,
    "Gemm": 1,
    "FusedMatMul": 1,
    "FusedGemm": 1,
    "MatMulNBits": 1,
    "MatMulBnb4": 1,
    "MatMulFpQ4": 1,
    "MatMulInteger": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulIntegerToFloat": 1,
    "QLinearMatMul": 3,
    "QGemm": 3,
}
"""Which input of each is its weight (docs/Operators.md of ONNX, docs/ContribOperators.md of onnxruntime)."""

_PLAIN = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm"})
"""Their weights are numbers; of codes only where something decodes them before."""

_PACKED = frozenset({"MatMulNBits", "MatMulBnb4", "MatMulFpQ4"})
"""Their weights lie [out, in] in codes of a few bits; the attributes N and K say how many rows and columns."""


def is_plain(node: Node) -> bool:
    """Whether it is a product with a matrix of numbers."""
    return node.op in _PLAIN


def is_turned(node: Node) -> bool:
    """Whether the weight of a product lies [in, out]."""
    return node.op not in _PACKED and not node.numbers.get("transB", (0,))[0]


def size_of(node: Node, stored: Stored) -> tuple[int, int] | None:
    """(out, in) of the weight of a product; None where it is no matrix."""
    if node.op in _PACKED:
        rows, columns = (node.numbers.get(key, (0,))[0] for key in ("N", "K"))
        return (rows, columns) if rows > 0 and columns > 0 else None
    if len(stored.sizes) != 2:
        return None
    first, second = stored.sizes
    return (second, first) if is_turned(node) else (first, second)


def holds_codes(node: Node) -> bool:
    """Whether the weight of a product is codes by the operator itself."""
    return node.op not in _PLAIN


def order_of(node: Node, slot: int, rank: int) -> tuple[int, ...]:
    """The axes of an operand as MatMul takes them: onnxruntime's FusedMatMul turns them before.

    ``transBatchA`` takes the first axis behind those of the batch, ``transA`` then swaps the last two.
    """
    order = [*range(rank)]
    if node.op != "FusedMatMul" or rank < 2:
        return tuple(order)
    letter = "AB"[slot]
    if node.numbers.get(f"transBatch{letter}", (0,))[0]:
        order = [*order[1:-1], 0, order[-1]]
    if node.numbers.get(f"trans{letter}", (0,))[0]:
        order[-2:] = order[:-3:-1]
    return tuple(order)
