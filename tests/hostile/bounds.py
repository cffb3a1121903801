"""What one input may cost here: 256 MB more than the process had, and no minute.

The promise is two seconds. tests/benchmarks/hostile.py measures it, where no coverage slows the reader.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

HANG = 60.0
"""Seconds of the processor after which an input counts as one that hangs."""

BYTES = 256 << 20
_PAGE = resource.getpagesize()


@contextmanager
def bounded_memory(most: int = BYTES) -> Iterator[None]:
    """Make an allocation beyond ``most`` more bytes of address space a MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    resource.setrlimit(resource.RLIMIT_AS, (now + most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("too long for one input")


@contextmanager
def no_hang(seconds: float = HANG) -> Iterator[Callable[..., Any]]:
    """A function that calls another with its arguments, and stops it where it hangs.

    It is time of the processor: what else runs must not matter.
    """

    def within(call: Callable[..., T], *arguments: Any) -> T:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            return call(*arguments)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    before = signal.signal(signal.SIGPROF, _late)
    try:
        yield within
    finally:
        signal.signal(signal.SIGPROF, before)
