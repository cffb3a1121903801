"""Cut views along an axis, and put pieces of one weight together again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from qkvinspect.fast_dataclass import replace
from qkvinspect.formats.onnx.views import (
    Axis,
    Digit,
    Dim,
    LostError,
    View,
    count,
    extent,
    is_rows,
    normal,
    replaced,
    rows_of_axis,
)


def sliced(view: View, axis: int, start: int, stop: int, step: int, size: Dim) -> View:
    """A range along one axis.

    Args:
        size: what is known of its length where the axis counts no rows.

    Raises:
        LostError: it cuts through heads and other things at once.
    """
    digits = view.axes[axis]
    if not rows_of_axis(digits):
        whole = start == 0 and step == 1 and stop >= (1 << 31)
        return view if whole else replaced(view, axis, () if size == 1 else (Digit(size),))
    if not all(map(is_rows, digits)):
        if start == 0 and step == 1 and stop >= (1 << 31):
            return view
        raise LostError
    length = count(digits)
    places = range(length)[start:stop:step]
    if not places:
        raise LostError
    return _picked(view, axis, digits, places)


def _picked(view: View, axis: int, digits: Axis, places: range) -> View:
    digits = normal(digits)
    if not digits:
        return replaced(view, axis, ())
    first, *others = digits
    assert first.stride is not None
    inner = prod(int(digit.size) for digit in others)
    if not others:
        moved = _shifted(view, first, places.start)
        return replaced(moved, axis, normal([Digit(len(places), first.stride * places.step, first.axis)]))
    if len(places) == 1 or places[0] // inner == places[-1] // inner:
        at = places[0] // inner
        rest = range(places.start - at * inner, places.stop - at * inner, places.step)
        return _picked(_shifted(view, first, at), axis, tuple(others), rest)
    if places.step == 1 and places.start % inner == 0 and len(places) % inner == 0:
        moved = _shifted(view, first, places.start // inner)
        whole = Digit(len(places) // inner, first.stride, first.axis)
        return replaced(moved, axis, normal([whole, *others]))
    raise LostError


def _shifted(view: View, digit: Digit, by: int) -> View:
    offsets = [*view.offsets]
    offsets[digit.axis] += by * (digit.stride or 0)
    return replace(view, offsets=tuple(offsets))


def taken_at(view: View, axis: int, places: Sequence[int]) -> View:
    """Rows along an axis by their numbers, each perhaps several times.

    Raises:
        LostError: they follow no rule.
    """
    size = count(view.axes[axis])
    if not all(map(is_rows, view.axes[axis])) or not places:
        raise LostError
    places = [place + size if place < 0 else place for place in places]
    if not all(0 <= place < size for place in places):
        raise LostError
    total, first = len(places), places[0]
    times = next((at for at, place in enumerate(places) if place != first), total)
    period = next((at for at, place in enumerate(places) if at and place == first), total)
    for single, before, after in ((places[::times], 1, times), (places[:period], total // period, 1)):
        step = single[1] - single[0] if len(single) > 1 else 1
        run = range(single[0], single[0] + len(single) * step, step) if step else range(0)
        again = [place for _ in range(before) for place in run for _ in range(after)]
        if again == [*places]:
            cut = _picked(view, axis, view.axes[axis], run)
            digits = (Digit(before, 0), *cut.axes[axis], Digit(after, 0))
            return replaced(cut, axis, normal(digits))
    raise LostError


def joined(views: Sequence[View], axis: int) -> View:
    """Rows of one weight, put together again along an axis.

    Raises:
        LostError: they are not evenly spaced pieces.
    """
    first = views[0]
    if any(view.weight != first.weight or len(view.offsets) != 1 for view in views):
        raise LostError
    if any(_but(view, axis) != _but(first, axis) for view in views):
        raise LostError
    views = _unmixed(views)
    turn = max(view.turn for view in views)
    first = replace(views[0], turn=turn, mixed=None)
    starts = [view.offsets[0] for view in views]
    steps = {after - before for before, after in pairwise(starts)}
    digits = first.axes[axis]
    if all(view.axes[axis] == digits for view in views) and len(steps) == 1:
        return replaced(first, axis, normal([Digit(len(views), steps.pop()), *digits]))
    return _one_behind_the_other(first, views, axis)


def _unmixed(views: Sequence[View]) -> Sequence[View]:
    """The halves of a rotation where each begins for itself: of two sums of the same rows, the second is the other."""
    if len(views) == 2 and all(view.mixed is not None for view in views):
        one, other = views
        if one.offsets == other.offsets and other.mixed is not None:
            return one, replace(other, offsets=(other.mixed,), mixed=one.offsets[0])
    return views


def _one_behind_the_other(first: View, views: Sequence[View], axis: int) -> View:
    """Pieces of different lengths of one run."""
    stride, total, at = None, 0, first.offsets[0]
    for view in views:
        digits = normal(view.axes[axis])
        if len(digits) > 1 or view.offsets[0] != at:
            raise LostError
        if digits and digits[0].stride is None:
            raise LostError
        own = digits[0].stride if digits else stride
        size = int(digits[0].size) if digits else 1
        if own is None or (stride is not None and own != stride):
            raise LostError
        stride = own
        total += size
        at += size * stride
    return replaced(first, axis, normal([Digit(total, stride)]))


def _but(view: View, axis: int) -> tuple[Axis, ...]:
    return view.axes[:axis] + view.axes[axis + 1 :]


def mixed(one: View, other: View, *, is_sum: bool) -> View:
    """Rows that are combined with others of the same weight: those of rotary embeddings with what they turn with.

    Raises:
        LostError: they are of two weights, or not combined so.
    """
    if one.weight != other.weight or len(one.offsets) != 1:
        raise LostError
    if one.axes == other.axes and one.offsets == other.offsets:
        return one
    if not is_sum:
        raise LostError
    distance = abs(one.offsets[0] - other.offsets[0])
    if extent(one) == extent(other):
        kept = one if _is_in_order(one) else other
        return replace(kept, turn=distance)
    if one.axes == other.axes:
        return replace(one, turn=distance, mixed=other.offsets[0])
    raise LostError


def _is_in_order(view: View) -> bool:
    return all((digit.stride or 0) >= 0 for axis in view.axes for digit in axis)
