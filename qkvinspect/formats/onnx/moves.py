"""What operators do to a view: which axes they cut, join, turn and repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from qkvinspect.fast_dataclass import replace
from qkvinspect.formats.onnx import cuts
from qkvinspect.formats.onnx import views as moved
from qkvinspect.formats.onnx.graph import Node
from qkvinspect.formats.onnx.passing import PASSED
from qkvinspect.formats.onnx.products import is_plain
from qkvinspect.formats.onnx.shapes import slices
from qkvinspect.formats.onnx.sizes import Sizes
from qkvinspect.formats.onnx.views import Digit, LostError, View

_FAR = 1 << 31


def move(sizes: Sizes, node: Node, view: View) -> View:
    """The view after a node that takes nothing else than its first input.

    Raises:
        LostError: it mixes rows, or it is not known what it does.
    """
    if node.op in PASSED:
        return view
    known = _MOVES.get(node.op)
    if known is None:
        raise LostError
    return known(sizes, node, view)


def split(sizes: Sizes, node: Node, view: View) -> list[View]:
    """The pieces of a Split.

    Raises:
        LostError: its lengths are not known, or do not fit.
    """
    axis = _axis(node, view, 0)
    digits = view.axes[axis]
    length = moved.count(digits)
    if not moved.rows_of_axis(digits):
        return [moved.replaced(view, axis, (Digit(sizes.unknown()),)) for _ in node.outputs]
    pieces = sizes.pieces(node, length)
    if pieces is None or sum(pieces) != length or min(pieces) < 1:
        raise LostError
    found: list[View] = []
    start = 0
    for piece in pieces:
        found.append(cuts.sliced(view, axis, start, start + piece, 1, piece))
        start += piece
    return found


def concatenated(sizes: Sizes, node: Node, given: Sequence[Sequence[View]]) -> tuple[View, ...]:
    """What a Concat gives: pieces of one weight joined, or, along tokens, the rows of each.

    Raises:
        LostError: it puts rows beside numbers of something else.
    """
    every = [view for views in given for view in views]
    rank = len(every[0].axes)
    if any(len(view.axes) != rank for view in every):
        raise LostError
    axis = _axis(node, every[0], 0)
    if all(len(views) == 1 for views in given) and any(view.axes[axis] for view in every):
        if any(moved.rows_of_axis(view.axes[axis]) for view in every):
            return (cuts.joined(every, axis),)
    elif all(len(views) == 1 for views in given) and len({view.weight for view in every}) == 1 < len(every):
        return (cuts.joined(every, axis),)
    if any(moved.rows_of_axis(view.axes[axis]) for view in every):
        raise LostError
    shape = sizes.shape(node.outputs[0])
    along = (Digit(shape[axis] if shape and len(shape) == rank else sizes.unknown()),)
    return tuple(dict.fromkeys(moved.replaced(view, axis, along) for view in every))


def reorders(sizes: Sizes, node: Node, given: Sequence[Sequence[View]]) -> bool:
    """Whether a node takes rows by their numbers, or puts pieces of one weight together, in whatever order."""
    every = [view for views in given for view in views]
    if node.op == "Concat":
        is_whole = len(every) == len(given) > 1 and not any(view.alone for view in every)
        along = node.numbers.get("axis", (0,))
        return is_whole and len({view.weight for view in every}) == 1 and all(_has_rows(view, along) for view in every)
    if not given[0]:
        return False
    view = given[0][0]
    if node.op in ("Gather", "GatherElements"):
        return view.alone or _has_rows(view, node.numbers.get("axis", (0,)))
    if node.op == "GatherND" and not view.alone:
        first, shape = node.numbers.get("batch_dims", (0,))[0], sizes.shape(node.input(1))
        many = shape[-1] if shape and isinstance(shape[-1], int) else len(view.axes)
        return _has_rows(view, range(first, min(first + many, len(view.axes))))
    return False


def with_mixed_tokens(sizes: Sizes, node: Node, given: Sequence[View], axis: int) -> list[View]:
    """What a product with a weight makes of rows along other axes than the one that it sums over; nothing of others."""
    if not is_plain(node) or any(view.alone or len(view.axes) < 2 for view in given):
        return []
    rows = [[bool(moved.rows_of_axis(each)) for each in view.axes] for view in given]
    if any(each[axis] or not any(each) for each in rows):
        return []
    shape = sizes.shape(node.outputs[0])
    known = shape and given and len(shape) == len(given[0].axes)
    along = shape[axis] if shape and known else sizes.unknown()
    return [moved.replaced(view, axis, (Digit(along),)) for view in given]


def _has_rows(view: View, axes: Iterable[int]) -> bool:
    rank = len(view.axes)
    return any(bool(moved.rows_of_axis(view.axes[axis])) for axis in axes if -rank <= axis < rank)


def _axis(node: Node, view: View, default: int) -> int:
    axis = node.numbers.get("axis", (default,))[0]
    if not -len(view.axes) <= axis < len(view.axes):
        raise LostError
    return axis % len(view.axes)


def _transposed(_: Sizes, node: Node, view: View) -> View:
    return moved.transposed(view, node.numbers.get("perm", ()))


def _reshaped(sizes: Sizes, node: Node, view: View) -> View:
    target = node.numbers.get("shape") or sizes.numbers(node.input(1))
    if target is None:
        raise LostError
    if node.numbers.get("allowzero", (0,))[0] and 0 in target:
        raise LostError
    return moved.reshaped(view, target)


def _flattened(_: Sizes, node: Node, view: View) -> View:
    axis = node.numbers.get("axis", (1,))[0] % (len(view.axes) + 1)
    halves = view.axes[:axis], view.axes[axis:]
    return replace(view, axes=tuple(moved.normal(digit for axis in half for digit in axis) for half in halves))


def _sliced(sizes: Sizes, node: Node, view: View) -> View:
    ranges = slices(sizes, node, len(view.axes))
    if ranges is None:
        raise LostError
    for axis, start, stop, step in ranges:
        view = cuts.sliced(view, axis, start, stop, step, sizes.unknown())
    return view


def _gathered(sizes: Sizes, node: Node, view: View) -> View:
    axis = _axis(node, view, 0)
    shape = sizes.shape(node.input(1))
    if shape is None:
        raise LostError
    if not moved.rows_of_axis(view.axes[axis]):
        if view.alone:
            raise LostError
        other = tuple((Digit(size),) if size != 1 else () for size in shape)
        return replace(view, axes=(*view.axes[:axis], *other, *view.axes[axis + 1 :]))
    places = sizes.whole(node.input(1))
    if places is None or len(shape) > 1:
        raise LostError
    cut = cuts.taken_at(view, axis, places)
    return cut if shape else moved.without(cut, axis)


def _gathered_first(sizes: Sizes, node: Node, view: View) -> View:
    """GatherND with one number for each of what it takes: rows along the first axis, as Gather takes them."""
    shape, places = sizes.shape(node.input(1)), sizes.whole(node.input(1))
    if (
        shape is None
        or places is None
        or shape[-1:] != (1,)
        or len(shape) > 2
        or node.numbers.get("batch_dims", (0,))[0]
    ):
        raise LostError
    cut = cuts.taken_at(view, 0, places)
    return cut if len(shape) == 2 else moved.without(cut, 0)


def _squeezed(sizes: Sizes, node: Node, view: View) -> View:
    axes = sizes.axes(node, len(view.axes))
    gone = [at for at, axis in enumerate(view.axes) if not axis] if axes is None else axes
    return replace(view, axes=tuple(axis for place, axis in enumerate(view.axes) if place not in gone))


def _unsqueezed(sizes: Sizes, node: Node, view: View) -> View:
    told = node.numbers.get("axes") or sizes.whole(node.input(1))
    axes = sizes.axes(node, len(view.axes) + len(told)) if told else None
    if axes is None:
        raise LostError
    for axis in sorted(axes):
        view = moved.with_axis(view, axis)
    return view


def _expanded(sizes: Sizes, node: Node, view: View) -> View:
    target = sizes.numbers(node.input(1))
    if target is None:
        raise LostError
    view = moved.broadcast(view, max(len(target), len(view.axes)))
    for axis, size in enumerate(target, len(view.axes) - len(target)):
        if not view.axes[axis] and size not in (1, -1):
            view = moved.repeated(view, axis, size)
    return view


def _tiled(sizes: Sizes, node: Node, view: View) -> View:
    times = sizes.numbers(node.input(1))
    if times is None or len(times) != len(view.axes):
        raise LostError
    for axis, size in enumerate(times):
        view = moved.repeated(view, axis, size)
    return view


_MOVES: Mapping[str, Callable[[Sizes, Node, View], View]] = {
    "Expand": _expanded,
    "Flatten": _flattened,
    "Gather": _gathered,
    "GatherND": _gathered_first,
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Squeeze": _squeezed,
    "Tile": _tiled,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}
