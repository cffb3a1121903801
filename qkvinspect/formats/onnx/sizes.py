"""Shapes of a graph's values, and the whole numbers that it computes shapes of, as far as they follow from its inputs.

What is not known has a name: equal names are equal sizes, so that a reshape by ``Shape`` of another value can be told
from one that mixes axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from qkvinspect.formats.onnx.graph import Graph, Node, Stored
from qkvinspect.formats.onnx.passing import FIRST_PASSED
from qkvinspect.formats.onnx.shapes import SHAPES, Shape
from qkvinspect.formats.onnx.tensors import small_numbers
from qkvinspect.formats.onnx.views import Dim
from qkvinspect.formats.onnx.wire import Wire

MOST_NUMBERS = 4096
"""Whole numbers of a constant that are read."""

_MOST_SIZES = 16
"""Numbers of a shape that is followed."""

_ELEMENTWISE = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Min",
        "Max",
        "Where",
        "Equal",
        "Less",
        "Greater",
        "LessOrEqual",
        "GreaterOrEqual",
        "And",
        "Or",
        "Xor",
        "Mod",
        "PRelu",
    ]
)


class Sizes:
    """Shapes and numbers by the names of values, in the order of the nodes."""

    def __init__(self, graph: Graph, wire: Wire) -> None:
        self._initialisers = graph.initialisers
        self._wire = wire
        self._shapes: dict[str, Shape] = dict(graph.inputs)
        self._numbers: dict[str, Shape | None] = {}
        self._unknown = 0

    def unknown(self) -> str:
        """A name for a size that is not known."""
        self._unknown += 1
        return f"?{self._unknown}"

    def shape(self, name: str) -> Shape | None:
        stored = self._initialisers.get(name)
        return self._shapes.get(name) if stored is None else stored.sizes

    def numbers(self, name: str) -> Shape | None:
        """The whole numbers of a value, where it is a shape or part of one."""
        stored = self._initialisers.get(name)
        if stored is None:
            return self._numbers.get(name)
        if name not in self._numbers:
            self._numbers[name] = self._stored(stored)
        return self._numbers[name]

    def whole(self, name: str) -> tuple[int, ...] | None:
        """The same, where all of them are known."""
        numbers = self.numbers(name)
        if numbers is None:
            return None
        known = tuple(number for number in numbers if isinstance(number, int))
        return known if len(known) == len(numbers) else None

    def _stored(self, stored: Stored) -> Shape | None:
        return small_numbers(stored, self._wire, MOST_NUMBERS) if len(stored.sizes) <= 2 else None

    def axes(self, node: Node, rank: int, slot: int = 1) -> tuple[int, ...] | None:
        """The axes that a node names, as an attribute or as an input; None where it names none."""
        named = node.numbers.get("axes") or (self.whole(node.input(slot)) if node.input(slot) else None)
        if named is None or not all(-rank <= axis < rank for axis in named):
            return None
        return tuple(axis % rank for axis in named)

    def see(self, node: Node) -> None:
        """Take in what a node gives."""
        if not node.outputs:
            return
        numbers = self._numbers_of(node)
        if numbers is not None and len(numbers) <= _MOST_SIZES:
            self._numbers[node.outputs[0]] = numbers
        if node.op == "Split":
            self._split(node)
            return
        if (shape := self._shape_of(node)) is not None and len(shape) <= _MOST_SIZES:
            if len(shape) == 1 and isinstance(shape[0], str) and numbers:
                shape = (len(numbers),)
            self._shapes[node.outputs[0]] = shape
        if node.op == "DynamicQuantizeLinear":  # its scale and its zero point
            self._shapes.update(dict.fromkeys(node.outputs[1:], ()))

    def set(self, name: str, shape: Shape) -> None:
        self._shapes[name] = shape

    def _shape_of(self, node: Node) -> Shape | None:
        first = self.shape(node.inputs[0]) if node.inputs else None
        if node.op == "Constant":
            return node.constant.sizes if node.constant is not None else ()
        if node.op in FIRST_PASSED:
            return first
        if node.op in _ELEMENTWISE:
            return self.broadcast([self.shape(name) for name in node.inputs])
        made = SHAPES.get(node.op)
        return None if made is None else made(self, node, first)

    def broadcast(self, shapes: Sequence[Shape | None]) -> Shape | None:
        """The shape of what is put together of several; of one that is not known no more axes are supposed."""
        known = [shape for shape in shapes if shape is not None]
        if not known or (max(map(len, known)) < 2 and len(known) < len(shapes)):
            return None
        rank = max(map(len, known))
        found: list[Dim] = []
        for axis in range(-rank, 0):
            sizes = [shape[axis] for shape in known if len(shape) >= -axis]
            others = [size for size in sizes if size != 1]
            numbers = [size for size in others if isinstance(size, int)]
            alone = 1 if len(known) == len(shapes) else self.unknown()
            found.append(numbers[0] if numbers else others[0] if others else alone)
        return tuple(found)

    def _split(self, node: Node) -> None:
        shape = self.shape(node.inputs[0]) if node.inputs else None
        if shape is None or not shape:
            return
        axis = node.numbers.get("axis", (0,))[0] % len(shape)
        pieces = self.pieces(node, shape[axis])
        for name, size in zip(node.outputs, pieces or [None] * len(node.outputs), strict=False):
            own = self.unknown() if size is None else size
            self._shapes[name] = (*shape[:axis], own, *shape[axis + 1 :])

    def pieces(self, node: Node, size: Dim) -> tuple[int, ...] | None:
        """The lengths into which a Split cuts an axis."""
        told = node.numbers.get("split") or self.whole(node.input(1))
        if told is not None:
            return told if len(told) == len(node.outputs) else None
        if not isinstance(size, int):
            return None
        many = len(node.outputs)
        length = -(-size // many)
        return (*[length] * (many - 1), size - length * (many - 1))

    def _numbers_of(self, node: Node) -> Shape | None:
        if node.op == "Constant":
            if node.constant is not None:
                return self._stored(node.constant)
            return node.numbers.get("value_ints") or node.numbers.get("value_int")
        if node.op == "Shape":
            shape = self.shape(node.inputs[0]) if node.inputs else None
            start, stop = node.numbers.get("start", (0,))[0], node.numbers.get("end", (None,))[0]
            return None if shape is None else shape[start:stop]
        if node.op == "ConstantOfShape":
            many = self.whole(node.inputs[0]) if node.inputs else None
            each = self._stored(node.constant) if node.constant is not None else None
            return each * many[0] if many and each and len(many) == 1 and 0 < many[0] <= 16 else None
        given = [self.numbers(name) for name in node.inputs]
        if not given or given[0] is None:
            return None
        compute = _NUMBERS.get(node.op)
        return compute(self, node, given) if compute is not None else None


def _calculated(by: Callable[[int, int], int]) -> Callable[[Sizes, Node, Sequence[Shape | None]], Shape | None]:
    def calculate(sizes: Sizes, _: Node, given: Sequence[Shape | None]) -> Shape | None:
        one, other = given[0], given[1] if len(given) > 1 else None
        if one is None or other is None or not one or not other or (len(one) > 1 < len(other) != len(one)):
            return None
        many = max(len(one), len(other))
        pairs = zip(one * (many // len(one)), other * (many // len(other)), strict=True)
        return tuple(
            by(a, b) if isinstance(a, int) and isinstance(b, int) and abs(a) < 1 << 62 > abs(b) else sizes.unknown()
            for a, b in pairs
        )

    return calculate


def _divided(a: int, b: int) -> int:
    return int(a / b) if b and abs(a) < 1 << 50 else 0


def _gathered(_: Sizes, __: Node, given: Sequence[Shape | None]) -> Shape | None:
    data, places = given[0], given[1] if len(given) > 1 else None
    if data is None or places is None:
        return None
    if not all(isinstance(place, int) and -len(data) <= place < len(data) for place in places):
        return None
    return tuple(data[place] for place in places if isinstance(place, int))


def _cut(sizes: Sizes, node: Node, given: Sequence[Shape | None]) -> Shape | None:
    data = given[0]
    cut = sizes.whole(node.input(1)), sizes.whole(node.input(2))
    step = sizes.whole(node.input(4)) if node.input(4) else (1,)
    if data is None or not cut[0] or not cut[1] or not step or not step[0]:
        return None
    run = slice(cut[0][0], cut[1][0], step[0])
    rows = _in_rows(sizes, node, data)
    if rows is None:
        return None if len(sizes.shape(node.input(0)) or ()) > 1 else data[run]
    axes = sizes.axes(node, 2, 3)
    return tuple(chain.from_iterable(rows[run])) if axes == (0,) and len(cut[0]) == 1 else None


def _in_rows(sizes: Sizes, node: Node, data: Shape) -> list[Shape] | None:
    """The rows of a table of numbers, as pads are computed in; None for a list of them."""
    shape = sizes.shape(node.input(0))
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int) or not shape[1]:
        return None
    return [data[start : start + shape[1]] for start in range(0, len(data), shape[1])]


def _turned(sizes: Sizes, node: Node, given: Sequence[Shape | None]) -> Shape | None:
    rows = _in_rows(sizes, node, given[0] or ())
    if rows is None:
        return None if len(sizes.shape(node.input(0)) or ()) > 1 else given[0]
    return tuple(chain.from_iterable(zip(*rows, strict=False)))


def _put_together(_: Sizes, __: Node, given: Sequence[Shape | None]) -> Shape | None:
    found: list[Dim] = []
    for part in given:
        if part is None or len(found) > MOST_NUMBERS:
            return None
        found += part
    return tuple(found)


def _chosen(sizes: Sizes, _: Node, given: Sequence[Shape | None]) -> Shape | None:
    if len(given) != 3 or None in given:
        return None
    which, yes, no = (one or () for one in given)
    if not len(which) == len(yes) == len(no):
        return None
    return tuple(
        (a if flag else b) if isinstance(flag, int) else sizes.unknown()
        for flag, a, b in zip(which, yes, no, strict=True)
    )


def _equal(_: Sizes, __: Node, given: Sequence[Shape | None]) -> Shape | None:
    one, other = given[0], given[1] if len(given) > 1 else None
    if one is None or other is None or not one or not other:
        return None
    other = other * len(one) if len(other) == 1 else other
    return tuple(int(a == b) for a, b in zip(one, other, strict=False))


_NUMBERS: Mapping[str, Callable[[Sizes, Node, Sequence[Shape | None]], Shape | None]] = {
    **dict.fromkeys(("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape"), lambda _, __, given: given[0]),
    "Add": _calculated(lambda a, b: a + b),
    "Sub": _calculated(lambda a, b: a - b),
    "Mul": _calculated(lambda a, b: a * b),
    "Div": _calculated(_divided),
    "Mod": _calculated(lambda a, b: a % b if b else 0),
    "Gather": _gathered,
    "Slice": _cut,
    "Transpose": _turned,
    "Concat": _put_together,
    "Where": _chosen,
    "Equal": _equal,
}
"""What operators make of whole numbers."""
