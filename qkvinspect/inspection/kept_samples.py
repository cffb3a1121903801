"""Samples of layers that are kept while their questions are asked, as several ask for the same."""

from __future__ import annotations

from collections.abc import Generator, Hashable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_MOST_BYTES = 128 << 20
"""Of samples that are kept: one of a large layer takes 10 MB."""


class KeptSamples:
    """What was made of each key, as long as there is room."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self._left = _MOST_BYTES

    def get(self, key: Hashable) -> tuple[Any] | None:
        return (self._made[key],) if key in self._made else None

    def keep(self, key: Hashable, made: Any, nbytes: int) -> None:
        if nbytes <= self._left:
            self._made[key] = made
            self._left -= nbytes


_current: ContextVar[KeptSamples | None] = ContextVar("kept samples", default=None)


@contextmanager
def keeping_samples() -> Generator[None]:
    """Keep samples until all layers of one checkpoint were asked."""
    token = _current.set(KeptSamples())
    try:
        yield
    finally:
        _current.reset(token)


def kept_samples() -> KeptSamples | None:
    return _current.get()
