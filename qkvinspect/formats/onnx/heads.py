"""Find numbers of heads in a graph: attention operators state them, and attention that is known shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qkvinspect.computed_rows import ComputedAttention
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats.onnx.names import Named, Uses
from qkvinspect.formats.onnx.operators import heads_of_operator, holds_projections, upstream
from qkvinspect.formats.onnx.products import PRODUCTS


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


def heads_of(uses: Uses, names: Iterable[Named], attentions: Iterable[ComputedAttention]) -> dict[str, Heads]:
    """What operators, or attention that is known, say of the heads of each product with a weight, by its name."""
    products = {use.stored.name for use in uses.all if use.slot == PRODUCTS.get(use.node.op)}
    told = dict(_told(uses))
    shown = _shown(attentions)
    return {
        named.name: told.get(named.stored) or shown.get(named.name, Heads())
        for named in names
        if named.stored in told or named.stored in products
    }


def _shown(attentions: Iterable[ComputedAttention]) -> dict[str, Heads]:
    """The heads of each weight of attention that is known: a reshape alone may be to anything."""
    found: dict[str, Heads] = {}
    for one in attentions:
        weights = [part.weight for part in one.parts.values()]
        for part in one.parts.values():
            own = len(part.heads) if weights.count(part.weight) == 1 else None
            found[part.weight] = Heads(len(part.heads[0]), own_heads=own)
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
