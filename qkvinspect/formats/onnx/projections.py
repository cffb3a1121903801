"""What a product makes of the rows of a weight: where they lie in its result."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from qkvinspect.formats.onnx import views as moved
from qkvinspect.formats.onnx.einsum import terms
from qkvinspect.formats.onnx.graph import Graph, Node
from qkvinspect.formats.onnx.products import order_of, size_of
from qkvinspect.formats.onnx.sizes import Sizes
from qkvinspect.formats.onnx.views import Axis, Digit, LostError, View


class Projections:
    """Products of activations and weights.

    A weight is a view of itself, so that it may be cut and turned before.

    Attributes:
        in_out: the matrices whose rows lie along their second axis.
    """

    def __init__(self, graph: Graph, sizes: Sizes) -> None:
        self._graph = graph
        self._sizes = sizes
        self.in_out: set[str] = set()

    def product(self, node: Node, weight: View) -> View:
        """What a weight makes of an activation: its rows lie along the last axis, of a convolution along the second."""
        stored = self._graph.initialisers[weight.weight]
        given = self._sizes.shape(node.input(0)) or tuple(self._sizes.unknown() for _ in range(3))
        given = tuple(given[axis] for axis in order_of(node, 0, len(given)))
        before = [(Digit(size),) if size != 1 else () for size in given]
        if node.op == "Conv":
            rows = self._convolved(node, weight, stored.sizes)
            given = self._sizes.shape(node.outputs[0]) or tuple(self._sizes.unknown() for _ in stored.sizes)
            before = [(Digit(size),) if size != 1 else () for size in given]
            return View(weight.weight, (before[0], rows, *before[2:]))
        size = size_of(node, stored)
        if len(weight.axes) != 2 or node.op.startswith("MatMulNBits") or (node.op[:6] == "MatMul" and node.domain):
            if len(weight.axes) == 3 and node.op == "MatMul":
                return self._batched(weight, before)
            if size is None or (len(weight.axes) != 2 and node.op in ("MatMul", "FusedMatMul")):
                raise LostError
            return View(weight.weight, (*before[:-1], moved.normal([Digit(size[0], 1)])))
        axes = weight.axes[::-1] if node.numbers.get("transB", (0,))[0] else weight.axes
        digits, offset = _rows_alone(weight, axes[1:], axes[0], stored.sizes)
        self._note(weight.weight, axes[1])
        return View(weight.weight, (*before[:-1], digits[0]), (offset,))

    def _note(self, weight: str, rows: Axis) -> None:
        if {digit.axis for digit in rows} == {1}:
            self.in_out.add(weight)

    def _batched(self, weight: View, before: Sequence[Axis]) -> View:
        """A product with a matrix for each head: heads lie along an axis of their own."""
        sizes = self._graph.initialisers[weight.weight].sizes
        (heads, rows), offset = _rows_alone(weight, (weight.axes[0], weight.axes[2]), weight.axes[1], sizes)
        lead = before[:-3] if len(before) > 2 else ()
        return View(weight.weight, (*lead, heads, before[-2], rows), (offset,))

    def on_the_left(self, node: Node, weight: View) -> View:
        """A weight on the left: its rows lie along the last but one axis."""
        given = self._sizes.shape(node.input(1))
        if given is None or len(weight.axes) != 2 or len(given) < 2:
            raise LostError
        sizes = self._graph.initialisers[weight.weight].sizes
        digits, offset = _rows_alone(weight, weight.axes[:1], weight.axes[1], sizes)
        self._note(weight.weight, weight.axes[0])
        before = [(Digit(size),) if size != 1 else () for size in given]
        return View(weight.weight, (*before[:-2], digits[0], before[-1]), (offset,))

    def _convolved(self, node: Node, weight: View, sizes: Sequence[int]) -> Axis:
        if node.numbers.get("group", (1,))[0] != 1 or len(sizes) < 3 or any(weight.offsets):
            raise LostError
        return moved.normal([Digit(sizes[0], 1)])

    def einsum(self, node: Node, slot: int, weight: View) -> View:
        shape = self._sizes.shape(node.input(1 - slot))
        if shape is None:
            raise LostError
        ranks = (len(weight.axes), len(shape)) if slot == 0 else (len(shape), len(weight.axes))
        told = terms(node.equation, ranks)
        own, given, out = told[slot], told[1 - slot], told[2]
        summed = [letter for letter in own if letter not in out]
        rows = [letter for letter in out if letter in own]
        if len(summed) != 1 or summed[0] not in given:
            raise LostError
        sizes = self._graph.initialisers[weight.weight].sizes
        axes, gone = [weight.axes[own.index(letter)] for letter in rows], weight.axes[own.index(summed[0])]
        digits, offset = _rows_alone(weight, axes, gone, sizes)
        counted = dict(zip(rows, digits, strict=True))
        others = {letter: (Digit(size),) if size != 1 else () for letter, size in zip(given, shape, strict=True)}
        return View(weight.weight, tuple(counted.get(letter) or others.get(letter, ()) for letter in out), (offset,))


def _rows_alone(weight: View, axes: Sequence[Axis], summed: Axis, sizes: Sequence[int]) -> tuple[list[Axis], int]:
    """The rows of a weight whose other axis a product sums over: (along each axis, the first of them).

    Rows are counted through all axes of the stored weight but that one.

    Raises:
        LostError: the product sums over several axes, or over a part of one that is cut otherwise as well.
    """
    labels = {digit.axis for digit in summed}
    if len(labels) > 1:
        raise LostError
    used = {digit.axis for axis in axes for digit in axis}
    left = labels or {axis for axis in range(len(sizes)) if axis not in used}
    if labels & used or (not labels and sizes and len(left) != 1):
        raise LostError
    (gone,) = left
    kept = [1 if axis == gone else size for axis, size in enumerate(sizes)]
    steps = [prod(kept[axis + 1 :]) for axis in range(len(kept))]
    counted = [
        moved.normal(Digit(digit.size, (digit.stride or 0) * steps[digit.axis]) for digit in axis) for axis in axes
    ]
    return counted, sum(at * steps[axis] for axis, at in enumerate(weight.offsets) if axis != gone)
