"""Command lines in the process of the tests, without what takes long there and is the same each time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

import typer.core
import typer.main

from qkvinspect.cli import plain
from qkvinspect.scans import engine


class _Here(Executor):
    """Does what a scan's workers would, in this process: to start one takes a thousand times as long."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class _HereEngine:
    batch = 1

    def executor(self) -> Executor:
        return _Here()

    def width(self) -> int:
        return 1

    def broken(self, error: BaseException) -> None:
        raise error


@contextmanager
def _here(jobs: int) -> Iterator[engine.Engine]:
    yield _HereEngine()


@contextmanager
def scans_here() -> Iterator[None]:
    """Scans without workers. That they find the same with them is what scans/test_engines.py is for."""
    processes, limit = engine.processes, engine.limit
    engine.processes, engine.limit = _here, lambda count: None  # a worker's limit on cores would stay in this process
    try:
        yield
    finally:
        engine.processes, engine.limit = processes, limit


@contextmanager
def kept_commands() -> Iterator[None]:
    """Build each of typer's commands once: that takes half of the time of one on a small file."""
    build, hints = typer.main.get_command, plain.get_type_hints
    typer.main.get_command, plain.get_type_hints = _built, _HINTS
    try:
        yield
    finally:
        typer.main.get_command, plain.get_type_hints = build, hints


_BUILD, _KEPT = typer.main.get_command, dict[tuple[int, ...], Any]()
_HINTS = functools.cache(plain.get_type_hints)


def _built(app: typer.Typer) -> Any:
    names = tuple(id(one.callback) for one in app.registered_commands)
    if names not in _KEPT:
        _KEPT[names] = _BUILD(app)
    return _KEPT[names]
