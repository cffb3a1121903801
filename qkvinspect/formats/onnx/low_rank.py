"""Products of low rank that a graph adds to those of weights, as adapters do: ``x W + (x A) B * scale``."""

from __future__ import annotations

from collections import Counter

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats.onnx.graph import Graph, Node
from qkvinspect.formats.onnx.products import is_plain, size_of
from qkvinspect.formats.onnx.tensors import number_of
from qkvinspect.formats.onnx.wire import Wire

_SAME = frozenset({"Identity", "Cast", "Dropout"})
_STEPS = 16
"""Nodes between a sum and the products that it adds."""


class AddedProduct(NamedTuple):
    """The initialisers B and A, and the number that their product is multiplied by."""

    up: str
    down: str
    scale: float


class LowRanks:
    """Where a graph adds such products.

    Attributes:
        found: by weight, what is added to it.
    """

    def __init__(self, graph: Graph, wire: Wire) -> None:
        self._graph = graph
        self._wire = wire
        self._makers: dict[str, Node] = {}
        self._readers: Counter[str] = Counter()
        self._sums: dict[str, tuple[str, str]] = {}
        self.found: dict[str, list[AddedProduct]] = {}

    def add(self, node: Node, weight: str) -> bool:
        """Whether a node adds such a product to that of a weight which is used for nothing else; it is kept then."""
        if node.op != "Add":
            return False
        if not self._makers:
            self._makers = {name: each for each in self._graph.nodes for name in each.outputs}
            self._readers = Counter(name for each in self._graph.nodes for name in each.inputs if each.op != "Shape")
        for base, other in (node.inputs[:2], node.inputs[1::-1]):
            given = self._given(base, weight)
            found = None if given is None else self._product(other, given)
            if given is not None and found is not None:
                self.found.setdefault(weight, []).append(found)
                self._sums[node.outputs[0]] = (weight, given)
                return True
        return False

    def _given(self, name: str, weight: str) -> str | None:
        """What a weight is multiplied with, where a value is that product with its bias and what was added before."""
        for _ in range(_STEPS):
            if self._readers[name] != 1:
                return None
            if name in self._sums:
                before, given = self._sums[name]
                return given if before == weight else None
            node = self._makers.get(name)
            if node is None:
                return None
            if node.op == "Add":
                made = [each for each in node.inputs if each not in self._graph.initialisers]
                if len(made) != 1:
                    return None
                name = made[0]
            elif node.op in _SAME:
                name = node.input(0)
            else:
                is_alone = node.input(1) == weight and self._readers[weight] == 1
                return self._root(node.input(0)) if is_plain(node) and is_alone and node.factor == 1 else None
        return None

    def _product(self, name: str, given: str) -> AddedProduct | None:
        """The product of two matrices with what was given, which a value is."""
        scale = 1.0
        up: Node | None = None
        for _ in range(_STEPS):
            node = self._makers.get(name)
            if node is None:
                return None
            if node.op in _SAME:
                name = node.input(0)
            elif node.op in ("Mul", "Div"):
                number = self._number(node.input(1))
                name = node.input(0)
                if number is None and node.op == "Mul":
                    number, name = self._number(node.input(0)), node.input(1)
                if not number:
                    return None
                scale = scale * number if node.op == "Mul" else scale / number
            elif is_plain(node) and not node.input(2):
                scale *= node.factor
                if up is not None:
                    is_low = self._is_low(up, node) and self._root(node.input(0)) == given
                    return AddedProduct(up.input(1), node.input(1), scale) if is_low else None
                up, name = node, node.input(0)
            else:
                return None
        return None

    def _is_low(self, up: Node, down: Node) -> bool:
        """Whether two products make one of lower rank than it has rows and columns."""
        stored = [self._graph.initialisers.get(node.input(1)) for node in (up, down)]
        if stored[0] is None or stored[1] is None or any(self._readers[one.name] != 1 for one in filter(None, stored)):
            return False
        second, first = size_of(up, stored[0]), size_of(down, stored[1])
        return first is not None and second is not None and second[1] == first[0] < min(second[0], first[1])

    def _root(self, name: str) -> str:
        """What a value is a copy of."""
        for _ in range(_STEPS):
            node = self._makers.get(name)
            if node is None or node.op not in _SAME:
                break
            name = node.input(0)
        return name

    def _number(self, name: str) -> float | None:
        """The number that a value is; None where it is none, or not known."""
        stored = self._graph.initialisers.get(name)
        if stored is None and (node := self._makers.get(name)) is not None and node.op == "Constant":
            stored = node.constant
        return None if stored is None else number_of(stored, self._wire)
