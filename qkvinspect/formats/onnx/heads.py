"""Find numbers of heads in a graph: attention operators state them, and reshapes show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from qkvinspect.formats.onnx.graph import Node
from qkvinspect.formats.onnx.names import Named, Uses
from qkvinspect.formats.onnx.operators import PASSED, STEPS, heads_of_operator, holds_projections, upstream
from qkvinspect.formats.onnx.products import PRODUCTS, size_of
from qkvinspect.formats.onnx.tensors import small_numbers
from qkvinspect.formats.onnx.wire import Wire


class Heads(NamedTuple):
    """The heads of one projection; None for what is not known.

    Attributes:
        num_heads, num_kv_heads: of its layer, as an operator says them.
        own_heads: how many it has itself, where it is not packed with others.
        packed: whether an operator takes it for Q, then K, then V.
    """

    head_dim: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    own_heads: int | None = None
    packed: bool = False


def heads_of(uses: Uses, names: Iterable[Named], wire: Wire) -> dict[str, Heads]:
    """What the graph says of the heads of each product with a weight, by the name of that."""
    by_use = {use.stored.name: use for use in uses.all if use.slot == PRODUCTS.get(use.node.op)}
    told = dict(_told(uses))
    found: dict[str, Heads] = {}
    for named in names:
        use = by_use.get(named.stored)
        if named.stored in told:
            found[named.name] = told[named.stored]
        elif use is not None and use.node.outputs:
            size = size_of(use.node, use.stored)
            found[named.name] = _shown(uses, use.node.outputs[0], size[0], wire) if size else Heads()
    return found


def _told(uses: Uses) -> Iterator[tuple[str, Heads]]:
    """What attention operators say of the weights that they hold, or whose products they take."""
    for node in uses.graph.nodes:
        found = heads_of_operator(node)
        if found is None:
            continue
        heads, kv_heads = found
        held = uses.at(node, 1)
        if held is not None and holds_projections(held):
            yield held.stored.name, Heads(num_heads=heads, num_kv_heads=kv_heads)
            continue
        for name in filter(None, node.inputs[:3]):
            use = upstream(uses, name)
            if use is not None:
                packed = node.op == "GroupQueryAttention" and not any(node.inputs[1:3])
                yield use.stored.name, Heads(num_heads=heads, num_kv_heads=kv_heads, packed=packed)


def _shown(uses: Uses, name: str, width: int, wire: Wire) -> Heads:
    """Of the reshapes between a projection and the product with another: the narrowest is to the width of a head."""
    narrowest, cut, cut_before = width, False, False
    for _ in range(STEPS):
        readers = [node for node in uses.readers.get(name, ()) if node.op != "Shape"]
        node = next((node for node in readers if node.op in PASSED), None)
        meets = any(_meets(uses, node) for node in readers)
        if meets or (node is not None and node.op == "Transpose" and _moves_last(node)):
            if narrowest == width or width % narrowest:
                return Heads()
            return Heads(narrowest, own_heads=None if cut_before else width // narrowest)
        if node is None or not node.outputs:
            return Heads()
        cut = cut or node.op in ("Gather", "Split", "Slice")
        cut_before = cut_before or node.op == "Gather"  # of Q, K and V; rotary embeddings slice heads
        if node.op == "Reshape" and len(node.inputs) > 1:
            last = _last(uses, node.inputs[1], wire)
            if last is not None and 1 < last < narrowest:
                narrowest, cut_before = last, cut
        name = node.outputs[0]
    return Heads()


def _meets(uses: Uses, node: Node) -> bool:
    """Whether a node takes a projection together with another, not with a weight."""
    if node.op in PRODUCTS:
        return uses.at(node, 0) is None and uses.at(node, PRODUCTS[node.op]) is None
    return node.op in ("Attention", "Softmax") and not uses.of(node)


def _moves_last(node: Node) -> bool:
    order = node.numbers.get("perm", ())
    return not order or order[-1] != len(order) - 1


def _last(uses: Uses, name: str, wire: Wire) -> int | None:
    """The last number of a shape, where it is a constant, or put together of others of which the last is one."""
    for _ in range(4):
        stored = uses.graph.initialisers.get(name)
        maker = uses.makers.get(name)
        stored = maker.constant if stored is None and maker is not None else stored
        if stored is not None:
            numbers = small_numbers(stored, wire)
            return numbers[-1] if numbers else None
        if maker is None or maker.op not in ("Concat", "Cast", "Unsqueeze", "Identity") or not maker.inputs:
            return None
        name = maker.inputs[-1] if maker.op == "Concat" else maker.inputs[0]
    return None
