"""Weights that an ONNX file stores as codes, for ``DequantizeLinear`` or inside a product of onnxruntime.

Codes, scales and zero points are named after their weight, as the encodings that decode them know them: one scale for
integers, or one for each of their rows, as ``int_codes``; those of MatMulNBits as ``nbits_codes``. Of all other
codes only rows and heads are reported, and that their numbers are not decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qkvinspect.formats.onnx.graph import Node, Stored
from qkvinspect.formats.onnx.labels import before_quantising
from qkvinspect.formats.onnx.names import DEQUANTIZE, Named, Uses, is_product
from qkvinspect.formats.onnx.products import PRODUCTS, holds_codes

CODES = "onnx_codes"
"""The last component of the name of codes that are not decoded."""

_CODES = (2, 3, 6)
"""TensorProto.DataType of uint8 and int8, and of int32, which biases are quantised to."""

_INSIDE: Mapping[str, tuple[int, int]] = {
    "QLinearMatMul": (4, 5),
    "QGemm": (4, 5),
    "MatMulIntegerToFloat": (3, 5),
    "DynamicQuantizeMatMul": (2, 3),
}
"""Products that take a scale and a zero point: which of their inputs these are."""

_BLOCKS = {1: "nbits_codes", 2: "nbits_scales", 3: "nbits_zero_points", 4: "nbits_g_idx"}
"""Inputs of MatMulNBits."""


_LEAVES = ("codes", "scale", "scales", "points", "zero_point", "g_idx")
"""How the names of codes end, and of what is beside them."""


def quantised_names(uses: Uses, names: Mapping[str, Named]) -> dict[str, Named]:
    """The names of a graph, with those of codes, and of the scales beside them, as their encodings know them."""
    found = dict(names)
    dequantised = {node.inputs[0]: node for node in uses.graph.nodes if node.op == DEQUANTIZE and node.inputs}
    products = {use.stored.name: use.node for use in uses.all if use.slot == PRODUCTS.get(use.node.op)}
    for name, named in names.items():
        node = dequantised.get(named.stored) or products.get(named.stored)
        coded = node is not None and (node.op == DEQUANTIZE or holds_codes(node))
        if node is None or not coded or (name == named.stored and node.op != DEQUANTIZE):
            continue
        found.pop(named.stored, None)
        found.pop(name, None)
        beside = _in_blocks(uses, node, named) if node.op == "MatMulNBits" else _scaled(uses, node, named)
        for one in beside or [named._replace(name=f"{name}.{CODES}")]:
            found.pop(one.stored, None)
            found[one.name] = one
    return found


def with_decoded(uses: Uses, names: Mapping[str, Named]) -> dict[str, Named]:
    """The names, with those of what is decoded for something else than a product in the place of its codes.

    As biases, norms and tables are, and weights that are cut before.
    """
    found = dict(names)
    named = {one.stored for one in names.values() if one.name != one.stored and one.part is None}
    named |= {use.stored.name for use in uses.all if is_product(use)}
    for node in uses.graph.nodes:
        stored = node.input(0)
        if node.op != DEQUANTIZE or not node.outputs or stored not in uses.graph.initialisers:
            continue
        name = before_quantising(stored, node.outputs[0]) or stored
        own = found.pop(stored, None)
        if stored not in named:
            named.add(stored)
            name = stored if name in names else name
            found[name] = Named(name, stored)
        elif own is not None and own.stored != stored:
            found[stored] = own
    return found


def without_scale(weights: Iterable[str], uses: Uses, found: Mapping[str, Named]) -> dict[str, Named]:
    """The names, with those of weights of attention that are codes whose scale is not known."""
    codes = {name for name in weights if uses.graph.initialisers[name].type in _CODES}
    plain = {f"{named.name}.{CODES}": named for named in found.values() if named.stored in codes}
    plain = {name: named for name, named in plain.items() if not named.name.endswith(_LEAVES)}
    gone = {named.name for named in plain.values()}
    others = {name: named for name, named in found.items() if name not in gone}
    return others | {name: named._replace(name=name) for name, named in plain.items()}


def said_of_blocks(uses: Uses, names: Mapping[str, Named]) -> dict[str, Mapping[str, int]]:
    """The attributes of each MatMulNBits, by the name of its weight."""
    nodes = {use.stored.name: use.node for use in uses.all if use.node.op == "MatMulNBits" and use.slot == 1}
    return {
        name: {key: values[0] for key, values in nodes[named.stored].numbers.items()}
        for name, named in names.items()
        if named.stored in nodes
    }


def _in_blocks(uses: Uses, node: Node, named: Named) -> list[Named] | None:
    """The tensors of a MatMulNBits; None where one that it takes is no initialiser."""
    found: list[Named] = []
    for slot, leaf in _BLOCKS.items():
        if not _input(node, slot):
            continue
        use = uses.at(node, slot)
        if use is None:
            return None
        found.append(Named(f"{named.name}.{leaf}", use.stored.name))
    return found


def _scaled(uses: Uses, node: Node, named: Named) -> list[Named] | None:
    """Codes with scales and zero points, where there is one for each row of the weight, or for all; else None."""
    codes = uses.graph.initialisers[named.stored]
    scale, zero = _beside(uses, node)
    if scale is None or codes.type not in _CODES or not codes.sizes or node.numbers.get("block_size", (0,))[0]:
        return None
    own = len(codes.sizes) - 1 if named.turned else 0
    axis = node.numbers.get("axis", (1,))[0] % len(codes.sizes) if node.op == DEQUANTIZE else own
    if not _are_one(scale) and (axis != own or scale.sizes != (codes.sizes[own],)):
        return None
    part = None if _are_one(scale) else named.part
    found = [named._replace(name=f"{named.name}.int_codes"), Named(f"{named.name}.int_scale", scale.name, part=part)]
    if not zero:
        return found
    point = uses.graph.initialisers.get(zero)
    if point is None or point.type != codes.type or (point.sizes != scale.sizes and not _are_one(point, scale)):
        return None
    return [*found, Named(f"{named.name}.int_zero_point", point.name, part=part)]


def _beside(uses: Uses, node: Node) -> tuple[Stored | None, str]:
    """(the scale of the codes of a node, the name of its zero point or "")."""
    if node.op == "MatMulInteger":
        return _scale_after(uses, node), _input(node, 3)
    scale, zero = (1, 2) if node.op == DEQUANTIZE else _INSIDE.get(node.op, (-1, -1))
    return uses.graph.initialisers.get(_input(node, scale)), _input(node, zero)


def _input(node: Node, slot: int) -> str:
    return node.inputs[slot] if 0 <= slot < len(node.inputs) else ""


def _scale_after(uses: Uses, node: Node) -> Stored | None:
    """The scale by which a product of integers is multiplied at last, together with that of the activation.

    onnxruntime's quantize_dynamic (quantization/operators/matmul.py): MatMulInteger, Cast, and Mul by what a Mul gives
    of the two scales.
    """
    cast = [one for name in node.outputs for one in uses.readers.get(name, ()) if one.op == "Cast"]
    after = [one for each in cast for name in each.outputs for one in uses.readers.get(name, ()) if one.op == "Mul"]
    if len(after) != 1:
        return None
    makers = [maker for name in after[0].inputs if (maker := uses.makers.get(name)) is not None and maker.op == "Mul"]
    stored = uses.graph.initialisers
    held = [stored[name] for maker in makers for name in maker.inputs if name in stored]
    return held[0] if len(held) == 1 else None


def _are_one(*stored: Stored) -> bool:
    """Whether each of them is one number."""
    return all(size == 1 for one in stored for size in one.sizes)
