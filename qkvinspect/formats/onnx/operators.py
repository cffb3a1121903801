"""Attention as one operator, of onnxruntime (docs/ContribOperators.md) and of ONNX since opset 23."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from qkvinspect.formats.onnx.graph import Node
from qkvinspect.formats.onnx.names import Named, Use, Uses
from qkvinspect.formats.onnx.products import PRODUCTS, size_of

_HEADS: Mapping[tuple[str, bool], tuple[str, str]] = {
    ("Attention", True): ("num_heads", "num_heads"),
    ("MultiHeadAttention", True): ("num_heads", "num_heads"),
    ("DecoderMaskedMultiHeadAttention", True): ("num_heads", "num_heads"),
    ("GroupQueryAttention", True): ("num_heads", "kv_num_heads"),
    ("Attention", False): ("q_num_heads", "kv_num_heads"),
}
"""By name, and whether it is of onnxruntime: its attributes for heads and kv heads."""

PASSED = frozenset(
    {
        "Add",
        "Cast",
        "DequantizeLinear",
        "Div",
        "Gather",
        "Identity",
        "LayerNormalization",
        "Mul",
        "QuantizeLinear",
        "Reshape",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that may stand between a projection and attention."""

STEPS = 24
"""How many such nodes are followed at most."""


def heads_of_operator(node: Node) -> tuple[int, int] | None:
    """(heads, kv heads) of an attention operator that says them."""
    keys = _HEADS.get((node.op, bool(node.domain)))
    if keys is None:
        return None
    heads, kv_heads = (node.numbers.get(key, (0,))[0] for key in keys)
    return (heads, kv_heads) if heads > 0 and kv_heads > 0 else None


def holds_projections(use: Use) -> bool:
    """Whether it is the packed weight inside onnxruntime's Attention: [in, out], Q, then K, then V."""
    return use.node.op == "Attention" and bool(use.node.domain) and use.slot == 1 and len(use.stored.sizes) == 2


def operator_names(uses: Uses, names: Mapping[str, Named]) -> Iterator[Named]:
    """The weights and biases inside attention operators, called after the place of the operator."""
    by_stored = {named.stored: named.name for named in names.values()}
    for node in uses.graph.nodes:
        if not node.domain or heads_of_operator(node) is None:
            continue
        weight, bias = uses.at(node, 1), uses.at(node, 2)
        if weight is not None and holds_projections(weight):
            yield Named(f"{_place(node)}.qkv_weight", weight.stored.name, True)
            if bias is not None:
                yield Named(f"{_place(node)}.qkv_bias", bias.stored.name)
        elif node.op == "MultiHeadAttention":
            yield from _biases(uses, node, by_stored)


def _biases(uses: Uses, node: Node, names: Mapping[str, str]) -> Iterator[Named]:
    """Those of Q, K and V, which MultiHeadAttention has in one vector."""
    bias = uses.at(node, 3)
    products = [upstream(uses, name) for name in node.inputs[:3]]
    if bias is None or len(products) != 3:
        return
    start = 0
    for use in products:
        name = names.get(use.stored.name, "") if use is not None else ""
        size = size_of(use.node, use.stored) if use is not None else None
        if size is None or not name.endswith(".weight"):
            return
        stop = start + size[0]
        yield Named(f"{name[:-6]}bias", bias.stored.name, part=(start, stop))
        start = stop


def _place(node: Node) -> str:
    """The module that the operator stands for: optimisers keep the name of what its last node gave."""
    given = node.outputs[0] if node.outputs else ""
    return node.scope or ".".join(given.split("/")[1:-1]) or node.name or given


def upstream(uses: Uses, name: str) -> Use | None:
    """The product that a value was made of, nothing but biases, norms, rotations and shapes between."""
    for _ in range(STEPS):
        node = uses.makers.get(name)
        if node is None:
            return None
        if node.op in PRODUCTS:
            return uses.at(node, PRODUCTS[node.op])
        given = [slot for slot in node.inputs if slot in uses.makers and uses.makers[slot].op != "Constant"]
        if node.op not in PASSED or not given:
            return None
        name = given[0]
    return None
