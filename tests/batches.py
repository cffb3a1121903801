"""Many small cases in one test: pytest itself takes longer over a test than most of them do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

SIZE = 50


def batches(cases: Sequence[Any], size: int = SIZE) -> list[Sequence[Any]]:
    """The cases, in their order, so many at a time."""
    return [cases[start : start + size] for start in range(0, len(cases), size)]


def each(cases: Iterable[tuple[Any, ...]], check: Callable[..., None]) -> None:
    """Check every case, of which the first entry is what it is called where it fails."""
    for name, *case in cases:
        try:
            check(*case)
        except BaseException as error:
            error.add_note(f"the case is {name!r}")
            raise
