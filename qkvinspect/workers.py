"""Run work on all cores and take its results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2
"""How many items for each worker may be queued or finished before the first of them is taken."""

_limit: int | None = None


class _Task(Generic[Item, Result]):
    """One item and its result or error."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self._made: list[Result] = []
        self._error: BaseException | None = None
        self._done = Lock()
        self._done.acquire()

    def run(self, work: Callable[[Item], Result]) -> None:
        try:
            self._made.append(work(self.item))
        except BaseException as error:  # raised again where the result is taken
            self._error = error
        finally:
            self._done.release()

    @property
    def pending(self) -> bool:
        """Whether it is not done."""
        return self._done.locked()

    def result(self) -> Result:
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._made.pop()


def in_order(work: Callable[[Item], Result], items: Iterable[Item], at_once: int | None = None) -> Generator[Result]:
    """What ``work`` makes of each item, in their order; several at a time, if there are several.

    Who takes the results works, too, while the next is not there: a thread that only waits would keep the others from
    Python's lock whenever it wakes. Only a few items are ever ahead of the one that is taken. An error is raised when
    its item's turn comes.

    Args:
        at_once: no more than so many at a time; None for as many as there are cores.
    """
    if at_once == 1:
        yield from map(work, items)
        return
    most = min(cores(), at_once or cores())
    todo: SimpleQueue[_Task[Item, Result] | None] = SimpleQueue()
    waiting: deque[_Task[Item, Result]] = deque()
    threads: list[Thread] = []

    def serve() -> None:
        while (task := todo.get()) is not None:
            task.run(work)

    def first() -> Result:
        while waiting[0].pending and not todo.empty():
            with suppress(Empty):  # another thread was quicker
                if (task := todo.get_nowait()) is not None:
                    task.run(work)
        return waiting.popleft().result()

    try:
        for item in items:
            task = _Task[Item, Result](item)
            waiting.append(task)
            todo.put(task)
            if len(threads) < most - 1 and len(waiting) > len(threads) + 1:
                threads.append(Thread(target=serve, daemon=True))
                threads[-1].start()
            if len(waiting) > most * _AHEAD:
                yield first()
        while waiting:
            yield first()
    finally:
        while not todo.empty():
            todo.get()
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join()


def in_batches(items: Iterable[Item], size: Callable[[Item], int], enough: int) -> Generator[list[Item]]:
    """Items that are of such a size together: to hand a small one to another core takes longer than its work."""
    batch: list[Item] = []
    held = 0
    for item in items:
        batch.append(item)
        held += size(item)
        if held >= enough:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def limit(count: int) -> None:
    """Limit the cores that this process uses from now on, because several such processes run."""
    global _limit  # noqa: PLW0603
    _limit = count


def cores() -> int:
    """How many cores this process may use."""
    if _limit is not None:
        return _limit
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
