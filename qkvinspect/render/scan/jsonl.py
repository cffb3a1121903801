"""A JSON object a line: what runs keep, and ``trend`` reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO

from qkvinspect.scans.rows import Scanned


def require() -> None:
    """Nothing."""


def write(scanned: Iterable[Scanned], fields: Sequence[str], file: BinaryIO) -> None:
    """The lines as they are."""
    for one in scanned:
        file.write(one.rows())
