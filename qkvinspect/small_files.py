"""Small files beside a checkpoint (settings, baselines, manifests), of which no more is read than one can hold."""

from __future__ import annotations

import os
from pathlib import Path

from qkvinspect import inputs
from qkvinspect.errors import UsageError


def contents(path: Path, what: str, most: int, *, expected: str | None = None, hint: str | None = None) -> bytes:
    """All bytes of a file, and no more than ``most``, whatever a device may give.

    Args:
        what: what it is taken for: ``a baseline``.
        expected, hint: what an error says besides, where it cannot be read.

    Raises:
        UsageError: it cannot be read, or is longer.
    """
    try:
        with path.open("rb") as file:
            inputs.note(os.fstat(file.fileno()))
            data = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", file=str(path), expected=expected, hint=hint) from error
    if len(data) > most:
        raise UsageError(f"is too large for {what}", file=str(path), expected=f"at most {most} bytes")
    return data
