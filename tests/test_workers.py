"""Work on several threads: in order, bounded, and over when it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from qkvinspect import workers
from qkvinspect.workers import in_order


@pytest.fixture(params=[1, 2, 7])
def most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(workers, "cores", lambda: request.param)
    return request.param


def slow_square(number: int) -> int:
    time.sleep((number * 7 % 5) / 1000)
    return number * number


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_results_come_in_order(most: int, count: int) -> None:
    assert list(in_order(slow_square, range(count))) == [number * number for number in range(count)]


def test_only_a_few_items_are_ahead(most: int) -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    for taken, _ in enumerate(in_order(slow_square, items())):
        assert len(drawn) - taken <= 2 * most + 1


def test_one_item_needs_no_thread(most: int) -> None:
    assert list(in_order(lambda _: threading.current_thread(), [1])) == [threading.main_thread()]


def test_several_threads_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 3)
    together = threading.Barrier(3, timeout=60)
    assert len(set(in_order(lambda _: (together.wait(), threading.get_ident())[1], range(6)))) == 3


def test_an_error_comes_when_its_turn_comes(most: int) -> None:
    def divide(number: int) -> float:
        return 1 / (3 - number)

    results = in_order(divide, range(100))
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_who_stops_early_leaves_no_thread(most: int) -> None:
    results = in_order(slow_square, range(100))
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if "serve" in thread.name]


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([], []),
        ([1], [[1]]),
        ([4, 4], [[4], [4]]),
        ([9, 1, 1, 1, 1, 1], [[9], [1, 1, 1, 1], [1]]),
        ([1, 9, 1], [[1, 9], [1]]),
    ],
)
def test_small_items_go_together(sizes: list[int], batches: list[list[int]]) -> None:
    assert list(workers.in_batches(sizes, lambda size: size, 4)) == batches
