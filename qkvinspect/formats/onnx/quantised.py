"""Weights that an ONNX file stores as codes, for ``DequantizeLinear`` or inside a product of onnxruntime.

int8 with one scale, or one for each row, is named as compressed-tensors names it, so that one encoding decodes both
(``(codes - zero point) * scale``: ONNX's Operators.md, DequantizeLinear). Of all other codes only rows and heads are
reported, and that their numbers are not decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from qkvinspect.formats.onnx.graph import Node, Stored
from qkvinspect.formats.onnx.names import DEQUANTIZE, Named, Uses

CODES = "onnx_codes"
"""The last component of the name of codes that are not decoded."""

_INT8 = 3
"""TensorProto.DataType."""

_PRODUCTS: Mapping[str, int] = {
    "MatMulNBits": 1,
    "MatMulBnb4": 1,
    "MatMulFpQ4": 1,
    "MatMulInteger": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulIntegerToFloat": 1,
    "QLinearMatMul": 3,
}
"""Products that take codes (docs/ContribOperators.md of onnxruntime), and which of their inputs these are."""


def quantised_names(uses: Uses, names: Mapping[str, Named]) -> dict[str, Named]:
    """The names of a graph, with those of codes, and of the scales beside them, as their encodings know them."""
    found = dict(names)
    dequantised = {node.inputs[0]: node for node in uses.graph.nodes if node.op == DEQUANTIZE and node.inputs}
    for name, named in names.items():
        node = dequantised.get(named.stored)
        if node is None or not name.endswith(".weight") or named.name == named.stored:
            continue
        found.pop(named.stored, None)
        beside = _scales(uses, node, named)
        if beside is None:
            del found[name]
            found[f"{name[:-6]}{CODES}"] = named._replace(name=f"{name[:-6]}{CODES}")
            continue
        for one in beside:
            found.pop(one.stored, None)
            found[one.name] = one
    for named in _inside_products(uses):
        found.pop(named.stored, None)
        found.setdefault(named.name, named)
    return found


def _scales(uses: Uses, node: Node, named: Named) -> list[Named] | None:
    """Scales and zero points of codes, where there is one for each row of the weight, or for all of it; else None."""
    initialisers = uses.graph.initialisers
    codes, scale = initialisers[named.stored], initialisers.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if scale is None or codes.type != _INT8 or len(codes.sizes) != 2 or node.numbers.get("block_size", (0,))[0]:
        return None
    own = len(codes.sizes) - 1 if named.turned else 0
    axis = node.numbers.get("axis", (1,))[0] % len(codes.sizes)
    if not _is_one(scale) and (axis != own or scale.sizes != (codes.sizes[own],)):
        return None
    found = [Named(f"{named.name}_scale", scale.name)]
    zero = initialisers.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if len(node.inputs) > 2 and node.inputs[2]:
        if zero is None or zero.type != _INT8 or zero.sizes != scale.sizes:
            return None
        found.append(Named(f"{named.name}_zero_point", zero.name))
    return found


def _is_one(stored: Stored) -> bool:
    return all(size == 1 for size in stored.sizes)


def _inside_products(uses: Uses) -> Iterator[Named]:
    for node in uses.graph.nodes:
        slot = _PRODUCTS.get(node.op)
        use = uses.at(node, slot) if slot is not None else None
        if use is not None and node.scope and len(use.stored.sizes) > 1:
            turned = len(use.stored.sizes) == 2 and not node.op.startswith(("MatMulN", "MatMulB", "MatMulF"))
            yield Named(f"{node.scope}.{CODES}", use.stored.name, turned)
