"""Where checkpoints are read: processes of this machine, or the workers of a Dask cluster.

All through ``concurrent.futures``: a task is a batch of checkpoints, so many are in flight and no more, and results
are taken as they come. When workers die, each checkpoint that was with them is tried again alone, so that one that
kills its worker is found and given up, and no other is.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from qkvinspect.errors import QkvInspectError, UsageError
from qkvinspect.scans.rows import ScanJob, Scanned, lost, scan_one
from qkvinspect.version import __version__
from qkvinspect.workers import limit

_TRIES = 2
"""How often a checkpoint is tried alone before it is given up."""

_PATIENCE = 5
"""Seconds for a scheduler to answer."""

_TALKATIVE = ("distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application", "asyncio")
"""The loggers that Dask has print to stderr, and the one that Python prints unawaited errors with."""

_BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Engine(Protocol):
    """An executor that can be replaced when it breaks.

    Attributes:
        batch: checkpoints in a task.
    """

    batch: int

    def executor(self) -> Executor:
        """The executor; a new one after ``broken``."""
        ...

    def width(self) -> int:
        """How many tasks may be in flight."""
        ...

    def broken(self, error: BaseException) -> None:
        """Called when a task was lost with its worker.

        Raises:
            QkvInspectError: there is no engine any more.
        """
        ...


def scan_all(paths: Iterable[str], job: ScanJob, engine: Engine) -> Generator[Scanned]:
    """Scan checkpoints wherever the engine does, and give what each became, in no order, each once."""
    batches = _batches(paths, engine.batch)
    alone: deque[str] = deque()
    tries: dict[str, int] = {}
    flying: dict[Future[list[Scanned]], list[str]] = {}

    def launch(batch: list[str]) -> None:
        with _uninterrupted():
            try:
                flying[engine.executor().submit(_work, batch, job)] = batch
            except BrokenProcessPool as error:  # broken since its last result
                engine.broken(error)
                flying[engine.executor().submit(_work, batch, job)] = batch

    while True:
        if alone:
            if not flying:
                launch([alone.popleft()])
        else:
            for batch in islice(batches, max(engine.width() - len(flying), 0)):
                launch(batch)
        if not flying:
            return
        done, _ = wait(flying, return_when=FIRST_COMPLETED)
        for future in done:
            batch = flying.pop(future)
            error = CancelledError() if future.cancelled() else future.exception()
            if error is None:
                yield from future.result()
                continue
            engine.broken(error)
            for path in batch:
                tries[path] = tries.get(path, -1) + 1
                if tries[path] < _TRIES:
                    alone.append(path)
                else:
                    yield lost(path, f"its worker died {_TRIES} times ({type(error).__name__}): out of memory?", job)


@contextmanager
def processes(jobs: int) -> Generator[Engine]:
    """So many processes of this machine, each with one thread."""
    before = set(multiprocessing.active_children())
    kept = {name: os.environ.get(name) for name in _BLAS}
    os.environ.update(dict.fromkeys(_BLAS, "1"))  # numpy reads it when a process imports it
    engine = _Processes(jobs)
    try:
        yield engine
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        engine.close()
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Processes:
    batch = 1

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def executor(self) -> Executor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks, and torch if it is here
            self._pool = ProcessPoolExecutor(self._jobs, context, _begin)
        return self._pool

    def width(self) -> int:
        return 2 * self._jobs

    def broken(self, error: BaseException) -> None:
        if not isinstance(error, BrokenProcessPool):
            raise error
        self.close()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


@contextmanager
def dask(address: str) -> Generator[Engine]:
    """The workers of a Dask cluster, which must see the same files under the same names.

    Raises:
        UsageError: there is no Dask here, no scheduler there, or another qkvinspect on its workers.
    """
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
    except ModuleNotFoundError as error:
        raise UsageError(
            "--dask needs distributed, which is not installed", hint="pip install 'qkvinspect[dask]'"
        ) from error
    for name in _TALKATIVE:
        logging.getLogger(name).handlers[:] = [logging.NullHandler()]  # what matters is raised
    with ExitStack() as stack:
        try:
            client: Any = stack.enter_context(Client(address, timeout=_PATIENCE, set_as_default=False))
        except (OSError, ValueError) as error:
            text = f"there is no Dask scheduler: {str(error).splitlines()[0]}"
            raise UsageError(text, file=address, hint="give its address, such as tcp://host:8786") from error
        executor = stack.enter_context(client.get_executor(pure=False))
        try:
            there = executor.submit(_version).result()
        except ModuleNotFoundError as error:
            raise UsageError(
                f"the workers cannot run it: {error}", file=address, hint="install it there, too"
            ) from error
        if there != __version__:
            raise UsageError("the workers have another qkvinspect", file=address, expected=__version__, found=there)
        yield _Dask(client, executor)


@dataclass
class _Dask:
    client: Any
    _executor: Executor
    batch: int = 8
    _width: int = 0
    _asked: float = 0.0

    def executor(self) -> Executor:
        return self._executor

    def width(self) -> int:
        if not self._width or time.monotonic() - self._asked > 5:  # clusters grow
            self._width, self._asked = 2 * max(sum(self.client.nthreads().values()), 1), time.monotonic()
        return self._width

    def broken(self, error: BaseException) -> None:
        if isinstance(error, CancelledError) or self.client.status != "running":
            raise QkvInspectError("the Dask scheduler is gone", hint="--resume goes on") from error


def _batches(paths: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(paths)
    while batch := list(islice(rest, size)):
        yield batch


def _work(batch: Sequence[str], job: ScanJob) -> list[Scanned]:
    limit(1)
    return [scan_one(path, job) for path in batch]


def _version() -> str:
    return __version__


@contextmanager
def _uninterrupted() -> Generator[None]:
    """Processes that are started here inherit that they ignore Ctrl-C: it is for the one that started them."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin() -> None:
    """A worker ends with whom it works for, even if that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.join,), daemon=True).start()


def _follow(join: Callable[[], None]) -> None:
    join()
    os._exit(1)
