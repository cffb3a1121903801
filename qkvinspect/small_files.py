"""Small files beside a checkpoint (settings, baselines, manifests), of which no more is read than one can hold."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from qkvinspect import inputs
from qkvinspect.errors import UsageError

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def opened(path: Path, *, expected: str | None = None, hint: str | None = None) -> BinaryIO:
    """A regular file, opened for reading; a pipe is not waited for, and of a device nothing is read.

    Args:
        expected, hint: what an error says besides.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    try:
        kind = _kind(os.stat(path).st_mode)  # before it is opened: to open a device can act on it
        descriptor = -1 if kind else os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:  # a NUL in its name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot be read: {reason}", file=str(path), expected=expected, hint=hint) from error
    if not kind:
        status = os.fstat(descriptor)
        kind = _kind(status.st_mode)
        if not kind:
            inputs.note(status)
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
    expected = expected or "a regular file"
    raise UsageError(f"cannot be read: it is {kind}", file=str(path), expected=expected, hint=hint)


def _kind(mode: int) -> str:
    """What it is, if it is no regular file."""
    if stat.S_ISREG(mode):
        return ""
    return next((kind for test, kind in _KINDS if test(mode)), "something else")


def contents(path: Path, what: str, most: int, *, expected: str | None = None, hint: str | None = None) -> bytes:
    """All bytes of a file, and no more than ``most``, whatever a device may give.

    Args:
        what: what it is taken for: ``a baseline``.
        expected, hint: what an error says besides, where it cannot be read.

    Raises:
        UsageError: it cannot be read, or is longer.
    """
    try:
        with opened(path, expected=expected, hint=hint) as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", file=str(path), expected=expected, hint=hint) from error
    if len(data) > most:
        raise UsageError(f"is too large for {what}", file=str(path), expected=f"at most {most} bytes")
    return data
