"""Arguments that may be one text or several: both become a tuple."""

from __future__ import annotations

from collections.abc import Iterable

Texts = str | int | Iterable[str | int]
"""One text or number, or several."""


def texts(given: Texts) -> tuple[str, ...]:
    """All of them as a tuple: a single text is one of them, not its letters.

    >>> texts("12"), texts(6), texts(["8", 4]), texts(())
    (('12',), ('6',), ('8', '4'), ())
    """
    return (str(given),) if isinstance(given, (str, int)) else tuple(map(str, given))
