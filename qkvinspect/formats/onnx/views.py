"""Where the rows of a weight lie in a tensor that a graph computes of it: strides, as a view of an array has them.

Each axis is a run of digits, the outermost first. A digit counts rows of the weight in steps of its stride, or it
counts something else: samples, tokens, pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import prod

from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.fast_tuple import NamedTuple

Dim = int | str
"""A size, or a name for one that is not known: equal names are equal sizes."""

MOST_HEADS = 1024
"""Heads of a module above which they are not listed."""


class Digit(NamedTuple):
    """A part of an axis.

    Attributes:
        stride: rows of the weight from one to the next; 0 where they are repeated, None where they are no rows.
        axis: of the stored weight, while no product has taken it.
    """

    size: Dim
    stride: int | None = None
    axis: int = 0


Axis = tuple[Digit, ...]

_MOST_AXES, _MOST_DIGITS = 16, 32
"""Of a view that is followed."""


@dataclass(frozen=True, slots=True)
class View:
    """A tensor by the rows of one weight.

    Attributes:
        weight: the initialiser.
        offsets: the row at which it begins, for each axis of the weight that is traced.
        turn: rows from one to that with which it was mixed, as rotary embeddings do; 0 where it was with none.
        mixed: the row at which the other half of such a mixture begins; None for what is no half.
        alone: whether it is the weight itself, which no product has taken.
    """

    weight: str
    axes: tuple[Axis, ...]
    offsets: tuple[int, ...] = (0,)
    turn: int = 0
    mixed: int | None = None
    alone: bool = False


class LostError(Exception):
    """A step after which rows can no longer be told."""


def is_handy(view: View) -> bool:
    """Whether it has no more axes and digits than any attention needs."""
    return len(view.axes) <= _MOST_AXES and sum(map(len, view.axes)) <= _MOST_DIGITS


def is_unknown(size: Dim) -> bool:
    """Whether nothing is known of a size, not even where it is from."""
    return isinstance(size, str) and size.startswith("?")


def is_rows(digit: Digit) -> bool:
    return digit.stride is not None


def rows_of_axis(axis: Axis) -> Axis:
    """The digits of an axis that count rows."""
    return tuple(filter(is_rows, axis))


def count(axis: Axis) -> int:
    """How many rows an axis runs over, repeated ones too."""
    return prod(digit.size for digit in axis if isinstance(digit.size, int) and is_rows(digit))


def rows(view: View) -> int:
    """How many rows a view holds, repeated ones too."""
    return prod(map(count, view.axes))


def normal(digits: Iterable[Digit]) -> Axis:
    """The same axis with as few digits as possible."""
    kept: list[Digit] = []
    for digit in digits:
        if digit.size == 1:
            continue
        last = kept[-1] if kept else None
        if (
            last is not None
            and last.stride is not None
            and digit.stride is not None
            and isinstance(last.size, int)
            and isinstance(digit.size, int)
            and last.axis == digit.axis
            and last.stride == digit.stride * digit.size
        ):
            kept[-1] = Digit(last.size * digit.size, digit.stride, digit.axis)
        else:
            kept.append(digit)
    return tuple(kept)


def transposed(view: View, order: Sequence[int]) -> View:
    order = order or range(len(view.axes))[::-1]
    if sorted(order) != [*range(len(view.axes))]:
        raise LostError
    return replace(view, axes=tuple(view.axes[axis] for axis in order))


def reshaped(view: View, target: Sequence[Dim]) -> View:
    """As Reshape cuts and joins axes: from both ends, and what is left is the axis whose size is not said.

    Raises:
        LostError: a cut goes through what is not known.
    """
    given = [view.axes[at] if size == 0 and at < len(view.axes) else None for at, size in enumerate(target)]
    left = [digit for axis in view.axes for digit in axis]
    front: list[Axis] = []
    back: list[Axis] = []
    at, stop = 0, len(target)
    while at < stop and (taken := _taken(left, target[stop - 1], given[stop - 1], last=True)) is not None:
        back.insert(0, taken)
        stop -= 1
    lenient = any(map(rows_of_axis, back))
    while at < stop and (taken := _taken(left, target[at], given[at], last=False)) is not None:
        front.append(taken)
        at += 1
    while lenient and at < stop and target[at] != -1 and left and _may_be(left[0], target[at]):
        front.append((left.pop(0)._replace(size=target[at]),))
        at += 1
    if stop - at > 1 or (stop == at and left):
        raise LostError
    if stop > at and isinstance(target[at], int) and target[at] != -1:
        if not left or any(map(is_rows, left)):
            raise LostError
        left = [Digit(target[at])]  # samples and tokens of unknown number, which are so many: all else is accounted for
    middle = [normal(left)] if stop > at else []
    return replace(view, axes=(*front, *middle, *back))


def _may_be(digit: Digit, size: Dim) -> bool:
    """Whether what counts no rows may be of a size: torch's older exporter writes one of an input as it was then."""
    return is_unknown(digit.size) or (not is_rows(digit) and isinstance(digit.size, str) and isinstance(size, int))


def _taken(left: list[Digit], size: Dim, whole: Axis | None, *, last: bool) -> Axis | None:
    """The digits that make up an axis of the new shape, which are taken away; None where that cannot be told."""
    if whole is not None:
        matches = left[len(left) - len(whole) :] == [*whole] if last else left[: len(whole)] == [*whole]
        if not matches:
            return None
        del left[slice(len(left) - len(whole), None) if last else slice(len(whole))]
        return whole
    if isinstance(size, str):
        if not left or left[-1 if last else 0].size != size:
            return None
        return (left.pop(-1 if last else 0),)
    if size <= 0:
        return None
    taken: list[Digit] = []
    kept, wanted = list(left), size
    while wanted > 1:
        if not left:
            left[:] = kept
            return None
        digit = left.pop(-1 if last else 0)
        if not isinstance(digit.size, int):
            left[:] = kept
            return None
        if wanted % digit.size == 0:
            wanted //= digit.size
        elif digit.size % wanted == 0:
            outer, inner = _cut(digit, digit.size // wanted if last else wanted)
            left.insert(len(left) if last else 0, outer if last else inner)
            digit = inner if last else outer
            wanted = 1
        else:
            left[:] = kept
            return None
        taken.insert(0 if last else len(taken), digit)
    return normal(taken)


def _cut(digit: Digit, outer: int) -> tuple[Digit, Digit]:
    """One digit as two, of which the first counts to ``outer``."""
    assert isinstance(digit.size, int)
    inner = digit.size // outer
    stride = None if digit.stride is None else digit.stride * inner
    return Digit(outer, stride, digit.axis), Digit(inner, digit.stride, digit.axis)


def replaced(view: View, axis: int, digits: Axis) -> View:
    """The view with other digits along one axis."""
    axes = [*view.axes]
    axes[axis] = digits
    return replace(view, axes=tuple(axes))


def without(view: View, axis: int) -> View:
    """The view without an axis of one."""
    return replace(view, axes=view.axes[:axis] + view.axes[axis + 1 :])


def with_axis(view: View, axis: int) -> View:
    """The view with one more axis, of one."""
    return replace(view, axes=(*view.axes[:axis], (), *view.axes[axis:]))


def repeated(view: View, axis: int, times: Dim) -> View:
    """The view with what lies along an axis several times."""
    if times == 1:
        return view
    rows = rows_of_axis(view.axes[axis]) or (isinstance(times, int) and not view.axes[axis])
    digit = Digit(times, 0 if rows and isinstance(times, int) else None)
    return replaced(view, axis, normal([digit, *view.axes[axis]]))


def broadcast(view: View, rank: int) -> View:
    """The view with axes of one before the others."""
    return replace(view, axes=((),) * (rank - len(view.axes)) + view.axes)


def extent(view: View) -> tuple[int, int]:
    """The first row and the last of a view."""
    ends = [
        (int(digit.size) - 1) * digit.stride
        for axis in view.axes
        for digit in axis
        if digit.stride is not None and isinstance(digit.size, int)
    ]
    return view.offsets[0] + sum(end for end in ends if end < 0), view.offsets[0] + sum(end for end in ends if end > 0)


def starts(digits: Iterable[Digit], offset: int) -> list[int] | None:
    """Where each head begins that some digits count, in their order; None where they are too many."""
    digits = [*filter(is_rows, digits)]
    if prod(int(digit.size) for digit in digits) > MOST_HEADS:
        return None
    steps = [[place * (digit.stride or 0) for place in range(int(digit.size))] for digit in digits]
    return [offset + sum(each) for each in product(*steps)]


def widened(view: View, shape: Sequence[Dim] | None) -> View:
    """The view as wide as what it is combined with."""
    if shape is None or len(shape) < len(view.axes):
        return view
    view = broadcast(view, len(shape))
    for axis, size in enumerate(shape):
        if not view.axes[axis] and size != 1:
            view = replaced(view, axis, (Digit(size),))
    return view
