"""Progress callbacks for work on many bytes."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the number of bytes done, and the total."""


def counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    """A function to call with the number of bytes that have just been processed."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return advance
