"""Fetch ranges with several requests at once: first those that are waited for, then announced ones a little ahead."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from qkvinspect.sources.spool import Spool
from qkvinspect.sources.transport import TemporaryError, failed

T = TypeVar("T")

CHUNK = 4 << 20
"""Bytes that one request asks for."""

_THREADS = 8
_AHEAD = 64 << 20
"""How many announced bytes are fetched ahead of the reader."""

_TRIES = 5
_PAUSE = 0.25
"""Seconds before the second try; then twice as long each time."""

_LONGEST = 60.0
"""Seconds that a server may ask to wait."""


class FetchTarget(Protocol):
    """A file that ranges are fetched for."""

    @property
    def name(self) -> str: ...

    @property
    def patience(self) -> float:
        """Seconds without any news after which it is given up."""
        ...

    def attempt(self, job: FetchJob) -> None:
        """Fetch what is missing of a job, once.

        Raises:
            TemporaryError: it may be tried again.
        """
        ...

    def finished(self, job: FetchJob) -> None:
        """Called, under the lock, when a job is done or has failed."""
        ...


class FetchJob:
    """A range to fetch.

    Attributes:
        position: what lies before it has been stored.
        mark: how many bytes were announced up to its end, where it was announced.
        error: why it cannot be fetched.
    """

    def __init__(self, file: FetchTarget, start: int, stop: int) -> None:
        self.file = file
        self.start = self.position = start
        self.stop = stop
        self.mark = 0
        self.urgent = self.begun = False
        self.error: Exception | None = None


class Fetcher:
    """The threads that fetch for a checkpoint and the files beside it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.spool = Spool()
        self._urgent = deque[FetchJob]()
        self._planned = deque[FetchJob]()
        self._announced = self._reached = 0
        self._far = _AHEAD
        self._alive = 0.0
        self._idle = 0
        self._threads = 0
        self._closed = threading.Event()

    def submit(self, jobs: Iterable[FetchJob]) -> None:
        """Fetch these next: a reader waits. The caller holds the lock, as for all methods below but ``close``."""
        new = [job for job in jobs if not job.urgent and not job.begun]
        for job in new:
            job.urgent = True
            self._urgent.append(job)
        if new:
            self._wake()

    def plan(self, jobs: Iterable[FetchJob]) -> None:
        """Fetch these in their order, as the reader comes near."""
        for job in jobs:
            self._announced += job.stop - job.start
            job.mark = self._announced
            self._planned.append(job)
        self._wake()

    def reach(self, mark: int) -> None:
        """Note that the reader has reached ``mark``, so that more may be fetched."""
        if mark > self._reached:
            self._reached = mark
            self._wake()

    def hurry(self) -> None:
        """Fetch all that is planned, however far ahead."""
        self._far = 1 << 63

    def wait(self, file: FetchTarget) -> None:
        """Wait until something has happened.

        Raises:
            CheckpointError: nothing has for too long: a server may hold a connection open and send nothing.
        """
        self.changed.wait(min(1.0, file.patience))
        if self._closed.is_set():
            raise failed(file.name, "was closed while it was read")
        if time.monotonic() - self._alive > file.patience:
            raise failed(file.name, f"nothing has come for {file.patience:g} seconds")

    def alive(self, later: float = 0.0) -> None:
        """Note progress; more is to come within ``later`` seconds."""
        self._alive = max(self._alive, time.monotonic() + later)

    def close(self) -> None:
        """Stop; requests under way are abandoned."""
        self._closed.set()
        with self.changed:
            self._urgent.clear()
            self._planned.clear()
            self.changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def _wake(self) -> None:
        self.alive()
        waiting = len(self._urgent) + len(self._planned)
        while self._threads < _THREADS and self._idle < waiting and not self.closed:
            self._threads += 1
            self._idle += 1
            threading.Thread(target=self._serve, name="fetch", daemon=True).start()
        self.changed.notify_all()

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._run(job)
            except Exception as error:  # raised again where the bytes are read
                job.error = error
            with self.changed:
                job.file.finished(job)
                self.alive()
                self._idle += 1
                self.changed.notify_all()

    def _next(self) -> FetchJob | None:
        with self.changed:
            while not self.closed:
                job = self._take()
                if job is not None:
                    job.begun = True
                    self._idle -= 1
                    return job
                self.changed.wait()
            self._threads -= 1
            self._idle -= 1
            return None

    def _take(self) -> FetchJob | None:
        while self._urgent:
            job = self._urgent.popleft()
            if not job.begun:
                return job
        while self._planned and self._planned[0].mark - self._reached <= self._far:
            job = self._planned.popleft()
            if not job.begun:
                return job
        return None

    def _run(self, job: FetchJob) -> None:
        def pause(seconds: float) -> bool:
            self.alive(seconds)
            return self._closed.wait(seconds)

        patiently(job.file.name, lambda: job.file.attempt(job), pause)


def patiently(name: str, attempt: Callable[[], T], pause: Callable[[float], object] = time.sleep) -> T:
    """Repeat an attempt, with growing pauses, while it fails temporarily.

    Args:
        pause: waits for some seconds; returns true if the job was cancelled.

    Raises:
        CheckpointError: it fails permanently, or too often.
    """
    tried = 0
    while True:
        try:
            return attempt()
        except TemporaryError as error:
            failure = error
        tried += 1
        if failure.wait > _LONGEST:
            asked = f"{failure.wait:.0f} seconds"
            raise failed(name, f"cannot be fetched now: {failure.reason}, and asks to wait", asked)
        seconds = max(failure.wait, _PAUSE * 2 ** (tried - 1) * random.uniform(0.75, 1.25))
        if tried == _TRIES or pause(seconds):
            raise failed(name, f"cannot be fetched: {failure.reason}", f"that {tried} times")
