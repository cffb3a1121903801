"""How work of many bytes says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Told how many bytes are done, and of how many."""


def counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    """A function to call with the number of bytes that have just been dealt with."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return advance
