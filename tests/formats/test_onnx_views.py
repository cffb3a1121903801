"""Views of a weight's rows against numpy: the same steps on an array of row numbers give the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvinspect.formats.onnx import cuts, moves
from qkvinspect.formats.onnx import views as moved
from qkvinspect.formats.onnx.graph import Graph, Node
from qkvinspect.formats.onnx.sizes import Sizes
from qkvinspect.formats.onnx.views import Digit, LostError, View
from tests.some import tried

TOKENS = 5


def started(rows: int) -> tuple[Any, View]:
    """What a product gives: a row of numbers for each of five tokens."""
    array = np.broadcast_to(np.arange(rows), (TOKENS, rows))
    return array, View("w", ((Digit(TOKENS),), moved.normal([Digit(rows, 1)])))


def numbers(view: View) -> Iterator[int]:
    """The row at each place of a view."""
    digits = [digit for axis in view.axes for digit in axis]
    for place in product(*(range(int(digit.size)) for digit in digits)):
        yield view.offsets[0] + sum(at * (digit.stride or 0) for at, digit in zip(place, digits, strict=True))


def shape(view: View) -> tuple[int, ...]:
    return tuple(prod(int(digit.size) for digit in axis) for axis in view.axes)


def divisors(size: int) -> list[int]:
    return [number for number in range(1, size + 1) if size % number == 0]


def step(draw: Any, array: Any, view: View) -> tuple[Any, View]:
    """One step of both; the same as before where rows are lost."""
    rank = array.ndim
    kind = draw(st.sampled_from(["cut", "join", "turn", "slice", "take", "one", "none", "again", "halves", "concat"]))
    axis = draw(st.integers(0, rank - 1))
    size = array.shape[axis]
    if kind == "cut":
        first = draw(st.sampled_from(divisors(size)))
        target = [*array.shape[:axis], first, size // first, *array.shape[axis + 1 :]]
        if draw(st.booleans()):
            target[draw(st.integers(0, rank))] = -1
        return array.reshape(target), moved.reshaped(view, target)
    if kind == "join" and axis + 1 < rank:
        target = [*array.shape[:axis], size * array.shape[axis + 1], *array.shape[axis + 2 :]]
        return array.reshape(target), moved.reshaped(view, target)
    if kind == "turn":
        order = draw(st.permutations(range(rank)))
        return array.transpose(order), moved.transposed(view, order)
    if kind in ("slice", "halves") and moved.rows_of_axis(view.axes[axis]):
        start = draw(st.integers(0, size - 1))
        stop = draw(st.integers(start + 1, size))
        by = draw(st.sampled_from([1, 1, 2, 3]))
        where = (slice(None),) * axis
        if kind == "halves" and size % 2 == 0:
            half = size // 2
            pieces = [(half, size), (0, half)]
            made = np.concatenate([array[(*where, slice(*piece))] for piece in pieces], axis)
            return made, cuts.joined([cuts.sliced(view, axis, *piece, 1, half) for piece in pieces], axis)
        return array[(*where, slice(start, stop, by))], cuts.sliced(view, axis, start, stop, by, 1)
    if kind == "take" and moved.rows_of_axis(view.axes[axis]):
        times = draw(st.sampled_from([1, 2, 3]))
        places = (
            [place for place in range(size) for _ in range(times)] if draw(st.booleans()) else [*range(size)] * times
        )
        return array.take(places, axis), cuts.taken_at(view, axis, places)
    if kind == "one":
        return np.expand_dims(array, axis), moved.with_axis(view, axis)
    if kind == "none" and size == 1:
        return array.squeeze(axis), moved.without(view, axis)
    if kind == "again" and size == 1:
        times = draw(st.sampled_from([2, 3]))
        return array.repeat(times, axis), moved.repeated(view, axis, times)
    if kind == "concat" and size > 1 and moved.rows_of_axis(view.axes[axis]):
        at = draw(st.integers(1, size - 1))
        where = (slice(None),) * axis
        made = np.concatenate([array[(*where, slice(0, at))], array[(*where, slice(at, size))]], axis)
        return made, cuts.joined([cuts.sliced(view, axis, 0, at, 1, 1), cuts.sliced(view, axis, at, size, 1, 1)], axis)
    return array, view


@tried(given(st.data(), st.sampled_from([12, 24, 36, 48, 30])), few=60, many=400)
def test_steps_are_those_of_numpy(data: Any, rows: int) -> None:
    array, view = started(rows)
    for _ in range(data.draw(st.integers(1, 8))):
        try:
            array, view = step(data.draw, array, view)
        except LostError:
            continue
    assert shape(view) == array.shape
    assert [*numbers(view)] == array.reshape(-1).tolist()


def test_most_steps_are_followed() -> None:
    """What real modules do: nothing of it is lost."""
    array, view = started(72)
    for target in ((TOKENS, 4, 3, 6), (TOKENS, 4, -1), (TOKENS, 4, 3, -1)):
        array, view = array.reshape(target), moved.reshaped(view, target)
    array, view = (
        array.transpose(2, 1, 0, 3)[1],
        moved.without(cuts.sliced(moved.transposed(view, (2, 1, 0, 3)), 0, 1, 2, 1, 1), 0),
    )
    assert [*numbers(view)] == array.reshape(-1).tolist()


@pytest.mark.parametrize("target", [(7, -1), (-1, -1), (3, TOKENS, 4), (0, 0, 0)])
def test_what_does_not_fit_is_lost(target: tuple[int, ...]) -> None:
    with pytest.raises(LostError):
        moved.reshaped(started(12)[1], target)


def test_a_size_that_is_named_may_be_written_as_a_number() -> None:
    """Torch's older exporter writes tokens that are left open as they were, in the reshape of nn.MultiheadAttention."""
    whole = View("w", ((Digit("tokens"),), (Digit("batch"),), (Digit(24, 1),)))
    made = moved.reshaped(whole, (TOKENS, "?1", 6))
    assert [moved.rows_of_axis(axis) for axis in made.axes] == [(), (Digit(4, 6),), (Digit(6, 1),)]
    with pytest.raises(LostError):
        moved.reshaped(View("w", ((Digit("tokens"), Digit(24, 1)),)), (TOKENS, "?1", 7))
    with pytest.raises(LostError):
        moved.reshaped(View("w", ((Digit(TOKENS, 6), Digit("batch")), (Digit(6, 1),))), (7, "?1", 6))


@pytest.mark.parametrize(("first", "crosses"), [(0, False), (3, True)])
def test_an_order_within_heads_is_none_of_heads(first: int, crosses: bool) -> None:
    """As DeepSeek V3 has the rows of a head that turn: every other one first, behind those that do not turn."""
    heads = (Digit(4, 6),)
    still = View("w", (heads, (Digit(2, 1),)), (first,))
    turning = View("w", (heads, (Digit(2, 1), Digit(2, 2))), (first + 2,))
    node = Node("Concat", "", "", ("a", "b"), ("c",), {"axis": (-1,)}, None, None, False)
    sizes = Sizes(Graph((), {}, {}, {}), cast(Any, None))
    assert moves.reorders(sizes, node, [(still,), (turning,)]) is crosses
