"""Operators of onnxruntime that compute with codes, as the plain ones on what is decoded (docs/ContribOperators.md).

Its quantiser writes them in the form that it calls QOperator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from qkvinspect.fast_dataclass import replace
from qkvinspect.formats.onnx.graph import Graph, Node

_FIRST: Mapping[str, int] = {
    "QLinearAdd": 0,
    "QLinearMul": 0,
    "QLinearSoftmax": 0,
    "QLinearSigmoid": 0,
    "QLinearLeakyRelu": 0,
    "QLinearConcat": 2,
    "QLinearWhere": 1,
}
"""Which input is the first of those that come as codes, a scale and a zero point each."""

_MANY: Mapping[str, int] = {"QLinearAdd": 2, "QLinearMul": 2, "QLinearWhere": 2}
"""How many of these there are; of a Concat any number, else one."""


def with_plain_operators(graph: Graph) -> Graph:
    """The same graph; each such node gives what it gave, without the rounding."""
    if not any(node.op in _FIRST for node in graph.nodes):
        return graph
    return replace(graph, nodes=tuple(one for node in graph.nodes for one in _plain(node)))


def _plain(node: Node) -> Iterator[Node]:
    if node.op not in _FIRST or not node.outputs:
        yield node
        return
    first = _FIRST[node.op]
    many = len(node.inputs) if node.op == "QLinearConcat" else 3 * _MANY.get(node.op, 1)
    given = list(node.inputs[: min(first, 1)] if node.op == "QLinearWhere" else ())
    for place in range(first, min(first + many, len(node.inputs)), 3):
        decoded = f"/{node.outputs[0]}/{place}"
        inputs = node.inputs[place : place + 3]
        yield replace(node, op="DequantizeLinear", domain="", inputs=inputs, outputs=(decoded,), numbers={})
        given.append(decoded)
    yield replace(node, op=node.op.removeprefix("QLinear"), domain="", inputs=tuple(given))
