"""Follow the rows of weights through a graph to the attention that they take part in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.formats.onnx import cuts, einsum, moves
from qkvinspect.formats.onnx import views as moved
from qkvinspect.formats.onnx.graph import Graph, Node
from qkvinspect.formats.onnx.low_rank import LowRanks
from qkvinspect.formats.onnx.passing import PASSED
from qkvinspect.formats.onnx.products import PRODUCTS, order_of
from qkvinspect.formats.onnx.projections import Projections
from qkvinspect.formats.onnx.scores import Scores, context, permuted, turned
from qkvinspect.formats.onnx.sizes import Sizes
from qkvinspect.formats.onnx.taken import is_attention, taken
from qkvinspect.formats.onnx.views import Axis, Digit, LostError, View
from qkvinspect.formats.onnx.wire import Wire

MOST_NODES = 400_000
"""Nodes of a graph that are followed."""

_MOST_STREAMS = 4
"""Weights whose rows lie one behind the other along tokens, as those of text and image do."""

_MOST_PIECES = 3
"""Into which a weight is cut for Q, K and V."""

_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Where", "Min", "Max"})
_SUMS = frozenset({"Add", "Sub"})
_OTHER_SLOT = {"QLinearMatMul": 3}
_SIZES = frozenset({"Shape", "Size"})


@dataclass(frozen=True, slots=True)
class Met:
    """Projections that attention takes together; of each the axes before the last two run over heads."""

    q: View
    k: View
    v: View


class Flow:
    """The rows of weights in the values of a graph, in the order of its nodes.

    Attributes:
        graph: the one that is followed.
        sizes: of its values.
        projections: the products of its weights.
        met: projections that attention takes together.
        pieces: of a value that holds all rows of a weight, what is cut of it.
        reordered: by weight, the operator that takes its rows in an order that cannot be followed.
        low_ranks: what is added to the products of weights, as adapters are.
        until: by weight, the last node that took its rows and gave nothing that can be followed.
    """

    def __init__(self, graph: Graph, wire: Wire) -> None:
        self.graph = graph
        self.sizes = Sizes(graph, wire)
        self._rows: dict[str, int] = {}
        self.projections = Projections(graph, self.sizes)
        self.low_ranks = LowRanks(graph, wire)
        self._views: dict[str, tuple[View, ...]] = {}
        self._scores: dict[str, Scores] = {}
        self._constant: set[str] = set(graph.initialisers)
        self.met: list[Met] = []
        self.pieces: dict[str, list[View]] = {}
        self.reordered: dict[str, str] = {}
        self.until: dict[str, Node] = {}
        for node in graph.nodes[:MOST_NODES]:
            self._see(node)

    def _see(self, node: Node) -> None:
        self.sizes.see(node)
        if not node.outputs:
            return
        if all(name in self._constant for name in node.inputs if name):
            self._constant.update(node.outputs)
        if node.op in _SIZES:
            return
        if any(name in self._scores for name in node.inputs):
            self._on(node)
            self._note(node, ())
            return
        given = [self._at(name) for name in node.inputs]
        if not any(given):
            return
        try:
            self._follow(node, given)
        except (LostError, ZeroDivisionError):
            if moves.reorders(self.sizes, node, given):
                self.reordered.setdefault(next(filter(None, given))[0].weight, node.op)
        self._note(node, given)

    def _note(self, node: Node, given: Sequence[tuple[View, ...]]) -> None:
        """Keep the node as the end of what it takes, where nothing that it gives is known."""
        if any(name in self._views or name in self._scores for name in node.outputs):
            return
        ended = [view for views in given for view in views if not view.alone]
        for name in node.inputs:
            if (scores := self._scores.get(name)) is not None:
                ended += scores.left + scores.right
        for view in ended:
            self.until[view.weight] = node

    def _at(self, name: str) -> tuple[View, ...]:
        """The views of a value; a weight is one of itself."""
        stored = self.graph.initialisers.get(name)
        if stored is None:
            return self._views.get(name, ())
        if not 2 <= len(stored.sizes) <= 4 or 0 in stored.sizes:
            return ()
        axes = tuple(moved.normal([Digit(size, 1, axis)]) for axis, size in enumerate(stored.sizes))
        return (View(name, axes, (0,) * len(axes), alone=True),)

    def _follow(self, node: Node, given: Sequence[tuple[View, ...]]) -> None:
        out = node.outputs[0]
        if node.op in PRODUCTS or node.op in ("Conv", "Einsum"):
            self._multiply(node, given)
        elif is_attention(node):
            self.met += (Met(*each) for each in zip(*taken(node, given), strict=False))
        elif node.op in _ELEMENTWISE:
            self._put(out, self._elementwise(node, given))
        elif node.op == "Concat":
            self._put(out, self._concatenated(node, given))
        elif node.op == "Split":
            pieces = [moves.split(self.sizes, node, view) for view in given[0]]
            for number, name in enumerate(node.outputs):
                self._put(name, [each[number] for each in pieces])
                self._cut(node, given[0], self._views.get(name, ()))
        elif node.op == "RotaryEmbedding":
            self._put(out, [self._rotated(node, view) for view in given[0]])
        else:
            self._put(out, [moves.move(self.sizes, node, view) for view in given[0]])
            if node.op in ("Gather", "GatherND", "Slice"):
                self._cut(node, given[0], self._views.get(out, ()))

    def _cut(self, node: Node, whole: tuple[View, ...], made: tuple[View, ...]) -> None:
        """Keep what a cut gives of a weight of which all rows were there."""
        if len(whole) != 1 or len(made) != 1 or whole[0].alone:
            return
        rows, kept = (moved.rows(view) for view in (whole[0], made[0]))
        if kept < rows == self._rows.get(whole[0].weight):
            held = self.pieces.setdefault(node.inputs[0], [])
            if len(held) <= _MOST_PIECES:
                held.append(made[0])

    def _concatenated(self, node: Node, given: Sequence[tuple[View, ...]]) -> tuple[View, ...]:
        # constants beside projections, as learned keys are, are no rows of these; what is empty adds nothing
        traced = [() if any(view.alone for view in views) else views for views in given]
        if not any(traced):
            raise LostError
        pairs = zip(node.inputs, traced, strict=True)
        held = [views for name, views in pairs if 0 not in (self.sizes.shape(name) or ())]
        found = moves.concatenated(self.sizes, node, [views for views in held if views])
        axis = node.numbers.get("axis", (0,))[0]
        if not all(held) and any(moved.rows_of_axis(view.axes[axis]) for view in found):
            raise LostError
        return found

    def _put(self, name: str, views: Iterable[View]) -> None:
        views = tuple(views)
        if 0 < len(views) <= _MOST_STREAMS and all(map(moved.is_handy, views)):
            self._views[name] = views
            if self.sizes.shape(name) is None:
                self.sizes.set(name, tuple(_size_of_axis(axis, self.sizes) for axis in views[0].axes))

    def _elementwise(self, node: Node, given: Sequence[tuple[View, ...]]) -> Iterable[View]:
        traced = [views for views in given if views and not views[0].alone]
        shape = self.sizes.shape(node.outputs[0])
        if not traced:
            others = [name for name, views in zip(node.inputs, given, strict=True) if not views]
            alone = [views for views in given if views]
            is_scaled = len(alone) == 1 and all(_is_scalar(self.sizes, name) for name in others)
            return alone[0] if is_scaled and node.op not in _SUMS else ()
        if len(traced) == 1:
            others = [name for name, views in zip(node.inputs, given, strict=True) if views != traced[0]]
            if node.op in _SUMS and not all(name in self._constant for name in others):
                return ()
            return [moved.widened(view, shape) for view in traced[0]]
        if len(traced) > 2 or any(len(views) > 1 for views in traced):
            return traced[0] if all(views == traced[0] for views in traced) else ()
        one, other = traced[0][0], traced[1][0]
        if one.weight != other.weight and one.axes == other.axes and one.offsets == other.offsets:
            return [view for view in (one, other) if self.low_ranks.add(node, view.weight)][:1]
        return [cuts.mixed(one, other, is_sum=node.op in _SUMS)]

    def _rotated(self, node: Node, view: View) -> View:
        shape = self.sizes.shape(node.input(2 if node.domain else 1))
        half = shape[-1] if shape else 0
        is_paired = node.numbers.get("interleaved", (0,))[0]
        return replace(view, turn=1 if is_paired else half if isinstance(half, int) else 0)

    def _multiply(self, node: Node, given: Sequence[tuple[View, ...]]) -> None:
        if (slot := _OTHER_SLOT.get(node.op, 1)) >= len(given):
            return
        one, other = given[0], given[slot]
        if node.op == "Einsum":
            self._einsum(node, one, other)
        elif len(other) == 1 and other[0].alone:
            if not self._mixes_tokens(node, one, -1, other[0]):
                self._take(node, self.projections.product(node, other[0]))
        elif len(one) == 1 and one[0].alone and node.op == "MatMul":
            if not self._mixes_tokens(node, other, -2, one[0]):
                self._take(node, self.projections.on_the_left(node, one[0]))
        elif one and other and not one[0].alone and node.op != "Conv":
            self._scores[node.outputs[0]] = Scores(_turned(node, 0, one), _turned(node, 1, other))

    def _mixes_tokens(self, node: Node, given: tuple[View, ...], axis: int, weight: View) -> bool:
        """Whether a product sums over tokens and leaves rows where they are; what it gives is kept then."""
        found = moves.with_mixed_tokens(self.sizes, node, given, axis) if len(weight.axes) == 2 else ()
        self._put(node.outputs[0], found)
        return bool(found)

    def _take(self, node: Node, view: View) -> None:
        self._views[node.outputs[0]] = (view,)
        self._rows[view.weight] = moved.rows(view)
        self.sizes.set(node.outputs[0], tuple(_size_of_axis(axis, self.sizes) for axis in view.axes))

    def _einsum(self, node: Node, one: tuple[View, ...], other: tuple[View, ...]) -> None:
        if len(node.inputs) != 2 or len(one) > 1 or len(other) > 1:
            raise LostError
        slots = [slot for slot, views in enumerate((one, other)) if views and views[0].alone]
        if len(slots) == 1:
            if one and other and not einsum.sums_rows(node.equation, slots[0], (one[0], other[0])):
                return
            self._take(node, self.projections.einsum(node, slots[0], (*one, *other)[slots[0] and len(one)]))
        elif one and other and not slots:
            left, right, rows, columns = einsum.scores(node.equation, one[0], other[0])
            self._scores[node.outputs[0]] = Scores((left,), (right,), rows, columns)

    def _on(self, node: Node) -> None:
        """What becomes of scores."""
        scores = next(self._scores[name] for name in node.inputs if name in self._scores)
        out = node.outputs[0]
        if node.op in PRODUCTS or node.op == "Einsum":
            if self._mixes_heads(node, scores):
                self._scores[out] = scores
                return
            try:
                self._weigh(node)
            except LostError:
                return
        elif node.op in ("Softmax", "Sigmoid") and scores.keys is None:
            rank = len(scores.left[0].axes)
            axis = node.numbers.get("axis", (-1,))[0] if node.op == "Softmax" else -1
            axis = axis - rank if axis >= 0 else axis
            if axis in (scores.rows, scores.columns):
                self._scores[out] = replace(scores, keys=axis)
        elif node.op == "Transpose":
            order = node.numbers.get("perm", ())
            rank = len(order)
            if rank and sorted(order) == [*range(rank)]:
                self._scores[out] = permuted(scores, order)
        elif node.op == "Split":
            return
        elif {scores.rows, scores.columns} == {-1, -2} or node.op in _ELEMENTWISE or node.op in PASSED:
            self._scores[out] = scores

    def _mixes_heads(self, node: Node, scores: Scores) -> bool:
        """Whether it is the product of scores, heads last, and as many mixtures of these, as of talking heads."""
        mixing = self._at(node.input(1))
        if node.op != "MatMul" or node.input(0) not in self._scores or len(mixing) != 1 or not mixing[0].alone:
            return False
        sizes = self.graph.initialisers[mixing[0].weight].sizes
        return len(sizes) == 2 and sizes[0] == sizes[1] and -1 not in (scores.rows, scores.columns)

    @staticmethod
    def _rank(node: Node, wanted: int) -> int:
        """How many axes an Einsum gives its scores."""
        given = node.equation.replace(" ", "").split("->")[0].split(",")
        return len(given[0 if wanted == -1 else -1].replace("...", ""))

    def _weigh(self, node: Node) -> None:
        """The product of what attention makes of scores, and V."""
        slot = _OTHER_SLOT.get(node.op, 1)
        first, second = node.input(0), node.input(slot)
        scores, values, wanted = self._scores.get(first), self._at(second), -1
        if scores is None:
            scores, values, wanted = self._scores.get(second), self._at(first), -2
        if scores is None or not values or values[0].alone:
            return
        place = 0 if wanted == -1 else 1
        scores, values = turned(node, place, scores), _turned(node, 1 - place, values)
        if scores.keys is None:
            self.met += (Met(values[0], *both) for both in context(scores) if wanted == -2 and len(values) == 1)
            return
        if node.op == "Einsum":
            tokens, is_first, rank = (scores.rows, scores.columns), wanted == -1, self._rank(node, wanted)
            values = tuple(
                einsum.weighted(node.equation, rank, view, tokens, scores.keys, first=is_first) for view in values
            )
        elif scores.keys != wanted:
            return
        over_columns = scores.keys == scores.columns
        queries, keys = (scores.left, scores.right) if over_columns else (scores.right, scores.left)
        many = max(len(queries), len(keys), len(values))
        if {len(queries), len(keys), len(values)} <= {1, many}:
            streams = [views * (many // len(views)) for views in (queries, keys, values)]
            self.met += (Met(*each) for each in zip(*streams, strict=True))


def _is_scalar(sizes: Sizes, name: str) -> bool:
    shape = sizes.shape(name)
    return shape is not None and prod(size for size in shape if isinstance(size, int)) == 1


def _size_of_axis(axis: Axis, sizes: Sizes) -> int | str:
    numbers = [digit.size for digit in axis if isinstance(digit.size, int)]
    if len(numbers) == len(axis):
        return prod(numbers)
    return axis[0].size if len(axis) == 1 else sizes.unknown()


def _turned(node: Node, slot: int, views: tuple[View, ...]) -> tuple[View, ...]:
    """An operand of a product as MatMul takes it."""
    return tuple(moved.transposed(view, order_of(node, slot, len(view.axes))) for view in views)
