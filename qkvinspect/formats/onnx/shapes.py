"""The shape of what each operator gives, by the shapes of what it takes (docs/Operators.md of ONNX)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from qkvinspect.formats.onnx.graph import Node
from qkvinspect.formats.onnx.products import order_of
from qkvinspect.formats.onnx.views import Dim

if TYPE_CHECKING:
    from qkvinspect.formats.onnx.sizes import Sizes

Shape = tuple[Dim, ...]

_REDUCED = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceSumSquare")


def _of_product(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    second = sizes.shape(node.input(1))
    if first is None or second is None or len(first) < 2 or len(second) < 2:
        return None
    first, second = (
        tuple(one[axis] for axis in order_of(node, slot, len(one))) for slot, one in enumerate((first, second))
    )
    rank = max(len(first), len(second))
    lead = sizes.broadcast([(1,) * (rank - len(one)) + one[:-2] for one in (first, second)])
    return (*(lead or ()), first[-2], second[-1])


def _reshaped(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    target = sizes.numbers(node.input(1))
    if target is None:
        return None
    made: list[Dim] = []
    for place, size in enumerate(target):
        copied = size == 0 and first is not None and place < len(first)
        made.append(first[place] if copied and first is not None else size)
    if -1 in made:
        made[made.index(-1)] = _rest(sizes, first, [size for size in made if size != -1])
    return tuple(made)


def _rest(sizes: Sizes, shape: Shape | None, others: Sequence[Dim]) -> Dim:
    """The size of the one axis that a reshape leaves open."""
    if shape is None:
        return sizes.unknown()
    names = [size for size in shape if isinstance(size, str)]
    for size in others:
        if isinstance(size, str):
            if size not in names:
                return sizes.unknown()
            names.remove(size)
    total = prod(size for size in shape if isinstance(size, int))
    known = prod(size for size in others if isinstance(size, int))
    if known <= 0 or total % known or (names and (total != known or len(names) > 1)):
        return sizes.unknown()
    return names[0] if names else total // known


def _turned(_: Sizes, node: Node, first: Shape | None) -> Shape | None:
    if first is None:
        return None
    order = node.numbers.get("perm", ()) or range(len(first))[::-1]
    return tuple(first[axis] for axis in order) if sorted(order) == [*range(len(first))] else None


def _unsqueezed(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    named = node.numbers.get("axes") or sizes.whole(node.input(1))
    axes = sizes.axes(node, len(first) + len(named)) if first is not None and named else None
    if first is None or axes is None or len(set(axes)) != len(axes):
        return None
    left = iter(first)
    return tuple(1 if axis in axes else next(left) for axis in range(len(first) + len(set(axes))))


def _squeezed(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    if first is None:
        return None
    axes = sizes.axes(node, len(first))
    if axes is None:
        return tuple(size for size in first if size != 1)
    return tuple(size for axis, size in enumerate(first) if axis not in axes)


def _gather(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    places = sizes.shape(node.input(1))
    if first is None or places is None or not first:
        return None
    axis = node.numbers.get("axis", (0,))[0] % len(first)
    return (*first[:axis], *places, *first[axis + 1 :])


def _slice(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    if first is None:
        return None
    made: list[Dim] = [*first]
    for axis, start, stop, step in slices(sizes, node, len(first)) or ():
        size = first[axis]
        whole = start == 0 and step == 1 and stop >= 1 << 31
        if not whole:
            made[axis] = len(range(size)[start:stop:step]) if isinstance(size, int) else sizes.unknown()
    return tuple(made) if slices(sizes, node, len(first)) is not None else tuple(sizes.unknown() for _ in first)


def slices(sizes: Sizes, node: Node, rank: int) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, stop, step) of each axis that a Slice cuts; None where they are not known."""
    told = [node.numbers.get(key) or sizes.whole(node.input(slot)) for slot, key in ((1, "starts"), (2, "ends"))]
    starts, stops = told
    if starts is None or stops is None or len(starts) != len(stops):
        return None
    axes = sizes.axes(node, rank, 3) or (tuple(range(len(starts))) if not node.input(3) else None)
    steps = (sizes.whole(node.input(4)) if node.input(4) else None) or (1,) * len(starts)
    if axes is None or not len(axes) == len(steps) == len(starts) or 0 in steps:
        return None
    return [*zip(axes, starts, stops, steps, strict=True)]


def _concatenated(sizes: Sizes, node: Node, _: Shape | None) -> Shape | None:
    shapes = [sizes.shape(name) for name in node.inputs]
    known = [shape for shape in shapes if shape is not None]
    if not known or not known[0]:
        return None
    rank = len(known[0])
    axis = node.numbers.get("axis", (0,))[0] % rank
    if any(len(shape) != rank for shape in known):
        return None
    along = [shape[axis] for shape in known]
    whole = len(known) == len(shapes) and all(isinstance(size, int) for size in along)
    made: list[Dim] = [*known[0]]
    made[axis] = sum(size for size in along if isinstance(size, int)) if whole else sizes.unknown()
    return tuple(made)


def _padded(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    if first is None:
        return None
    pads = node.numbers.get("pads") or sizes.whole(node.input(1))
    rank = len(first)
    if pads is None or len(pads) != 2 * rank or node.input(3):
        return tuple(sizes.unknown() for _ in first)
    more = [pads[axis] + pads[axis + rank] for axis in range(rank)]
    return tuple(
        size if not by else size + by if isinstance(size, int) else sizes.unknown()
        for size, by in zip(first, more, strict=True)
    )


def _expanded(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    return sizes.broadcast([first, sizes.numbers(node.input(1))])


def _reduced(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    if first is None:
        return None
    axes = sizes.axes(node, len(first))
    axes = range(len(first)) if axes is None else axes
    if node.numbers.get("keepdims", (1,))[0]:
        return tuple(1 if axis in axes else size for axis, size in enumerate(first))
    return tuple(size for axis, size in enumerate(first) if axis not in axes)


def _convolved(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    weight = sizes.shape(node.input(1))
    if first is None or weight is None or len(weight) != len(first) or len(first) < 3:
        return None
    rank = len(first) - 2
    strides, dilations = (node.numbers.get(key) or (1,) * rank for key in ("strides", "dilations"))
    pads = node.numbers.get("pads") or ((0,) * (2 * rank) if all(size == 1 for size in weight[2:]) else ())
    made: list[Dim] = [first[0], weight[0]]
    for axis, (size, kernel) in enumerate(zip(first[2:], weight[2:], strict=True)):
        known = isinstance(size, int) and isinstance(kernel, int) and len(pads) == 2 * rank
        if isinstance(size, str) and kernel == 1 and strides[axis : axis + 1] == (1,) and not any(pads):
            made.append(size)
        elif not known or not len(strides) == len(dilations) == rank or strides[axis] < 1:
            made.append(sizes.unknown())
        else:
            room = int(size) + pads[axis] + pads[axis + rank] - dilations[axis] * (int(kernel) - 1) - 1
            made.append(max(room // strides[axis] + 1, 0))
    return tuple(made)


def _flattened(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    if first is None:
        return None
    axis = node.numbers.get("axis", (1,))[0]
    halves = first[:axis], first[axis:]
    return tuple(_rest(sizes, half, ()) for half in halves)


def _of_gemm(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    second = sizes.shape(node.input(1))
    if first is None or second is None or len(first) != 2 or len(second) != 2:
        return None
    rows = first[1] if node.numbers.get("transA", (0,))[0] else first[0]
    return rows, second[0] if node.numbers.get("transB", (0,))[0] else second[1]


def _in_shape(sizes: Sizes, node: Node, _: Shape | None) -> Shape | None:
    return sizes.numbers(node.input(0))


def _like_places(sizes: Sizes, node: Node, _: Shape | None) -> Shape | None:
    return sizes.shape(node.input(1))


def _of_range(sizes: Sizes, _: Node, __: Shape | None) -> Shape | None:
    return (sizes.unknown(),)


def _of_einsum(sizes: Sizes, node: Node, _: Shape | None) -> Shape | None:
    given, out = node.equation.replace(" ", "").partition("->")[::2]
    known: dict[str, Dim] = {}
    for name, term in zip(node.inputs, given.split(","), strict=False):
        shape = sizes.shape(name)
        if shape is None or len(shape) != len(term) or "." in term:
            return None
        known |= zip(term, shape, strict=True)
    return tuple(known[letter] for letter in out) if out and set(out) <= known.keys() else None


def _tiled(sizes: Sizes, node: Node, first: Shape | None) -> Shape | None:
    times = sizes.numbers(node.input(1))
    if first is None or times is None or len(times) != len(first):
        return None
    pairs = zip(first, times, strict=True)
    return tuple(
        a if b == 1 else a * b if isinstance(a, int) and isinstance(b, int) else sizes.unknown() for a, b in pairs
    )


SHAPES: Mapping[str, Callable[[Sizes, Node, Shape | None], Shape | None]] = {
    **dict.fromkeys(_REDUCED, _reduced),
    "Concat": _concatenated,
    "ConstantOfShape": _in_shape,
    "Conv": _convolved,
    "FusedConv": _convolved,
    "FusedGemm": _of_gemm,
    "FusedMatMul": _of_product,
    "Einsum": _of_einsum,
    "Expand": _expanded,
    "Flatten": _flattened,
    "Gather": _gather,
    "GatherElements": _like_places,
    "Gemm": _of_gemm,
    "MatMul": _of_product,
    "MatMulInteger": _of_product,
    "Pad": _padded,
    "Range": _of_range,
    "Reshape": _reshaped,
    "Slice": _slice,
    "Squeeze": _squeezed,
    "Tile": _tiled,
    "Transpose": _turned,
    "Unsqueeze": _unsqueezed,
}
"""The shape of what an operator gives, where it is not that of its first input."""
