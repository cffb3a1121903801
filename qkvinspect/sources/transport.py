"""The interface of transports: they fetch ranges of one file, each with a validator that identifies its version."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError, UsageError

_TIMEOUT = "QKVINSPECT_TIMEOUT"

REFUSED = {
    401: (Code.FILE_PERMISSION, "may not be read: the server asks who you are"),
    403: (Code.FILE_PERMISSION, "may not be read"),
    404: (Code.FILE_MISSING, "is not there"),
    410: (Code.FILE_MISSING, "is not there any more"),
}
"""What no second try changes, by the status of a web server's answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose bytes are arriving.

    Attributes:
        size: of the whole file; None where only its end will tell.
        validator: changes when the file does; "" where nothing tells.
        pieces: the bytes, never more than were asked for; fewer where the connection broke.
        whole: whether it is the whole file, as the server gives no ranges.
    """

    size: int | None
    validator: str
    pieces: Iterator[bytes]
    whole: bool = False


class TemporaryError(Exception):
    """An attempt failed that may succeed when it is made again.

    Args:
        reason: what happened, as a clause.
        wait: seconds that the server asks to wait.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


class Transport(Protocol):
    """One remote file."""

    @property
    def name(self) -> str:
        """Its URL, without what may be secret."""
        ...

    @property
    def patience(self) -> float:
        """Seconds without any news after which it is given up."""
        ...

    def fetch(self, start: int, stop: int) -> AbstractContextManager[Answer]:
        """Ask for a range once.

        Raises:
            TemporaryError: it may be tried again.
            CheckpointError: it may not.
        """
        ...

    def beside(self, name: str) -> Transport:
        """A file in the same folder, or below it."""
        ...

    def names(self) -> tuple[str, ...] | None:
        """The names of the files in its folder; None where they cannot be listed."""
        ...

    def renew(self) -> None:
        """Forget cached metadata of this file and those beside it."""
        ...

    def validator(self) -> str | None:
        """What tells the file from others, asked again; None where every answer carries it."""
        ...

    def close(self) -> None: ...


def timeout() -> float:
    """Seconds that a server may be silent.

    Raises:
        UsageError: the setting is no number.
    """
    text = os.environ.get(_TIMEOUT, "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UsageError(f"{_TIMEOUT} is not a number of seconds", found=repr(text))
    return seconds


def failed(name: str, reason: str, found: str | None = None) -> CheckpointError:
    """The error when the server or the network failed."""
    return CheckpointError(
        reason, code=Code.FILE_REMOTE, file=name, found=found, hint="look at the address, the network and the server"
    )
