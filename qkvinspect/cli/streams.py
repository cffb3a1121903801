"""What the standard streams do where they lack a letter, or are not there at all.

An ASCII letter of the same width stands for a letter that the encoding lacks: a redirected Windows console has cp1252,
and ``LC_ALL=C`` ASCII; neither has the lines and blocks that tables draw.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_ERRORS = "qkvinspect.ascii"

_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
"""Whether this command was called with --quiet; ``main`` gives every command a context of its own."""

_ASCII = str.maketrans("─│└…·−▁▂▃▄▅▆▇█▏▎▍▌▋▊▉\ufffd", "-|+..-_.-~=+*#   ####?")


def hush(asked: bool) -> None:
    """Have this command print warnings and errors only, if that is asked for."""
    _QUIET.set(asked)


def quiet() -> bool:
    """Whether it prints nothing else."""
    return _QUIET.get()


def open_closed() -> None:
    """Have all three streams, also where the process was started without one, as by ``>&-``.

    What is written to such a stdout fails, as it does for any program, and such a stderr drops it. Without them the
    next files that are opened would take their descriptors, and be what is printed to.
    """
    for name, mode, access in (
        ("stdin", "r", os.O_RDONLY),
        ("stdout", "w", os.O_RDONLY),
        ("stderr", "w", os.O_WRONLY),
    ):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, access)
            os.set_inheritable(descriptor, True)  # for the processes of a scan
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", errors="backslashreplace"))


class _Forgiving(io.FileIO):
    """A descriptor on which what cannot be written is lost."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def forgive_stderr() -> None:
    """Have a full disk or a reader that is gone change no exit code: what the command found is said by that alone."""
    sys.stderr.flush()
    raw = _Forgiving(sys.stderr.fileno(), "w", closefd=False)
    encoding, errors = sys.stderr.encoding, sys.stderr.errors
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=True)


def replace_unencodable() -> None:
    """Have both streams print whatever is given to them, in any encoding."""
    codecs.register_error(_ERRORS, _replaced)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and str(getattr(stream, "encoding", "")).lower().replace("-", "") != "utf8":
            reconfigure(errors=_ERRORS)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII)
    return "".join(letter if letter.isascii() else _in_ascii(letter) for letter in text), error.end


def _in_ascii(letter: str) -> str:
    """A star or a point for the dots that curves are drawn with, an escape for any other letter."""
    if "\u2800" <= letter <= "\u28ff":
        return " " if letter == "\u2800" else "*" if (ord(letter) - 0x2800).bit_count() > 2 else "."
    return letter.encode("unicode_escape").decode("ascii")
