"""Which files a command has read, by whatever option or name: what it writes never takes the place of one of them.

Everything that opens a file for reading notes it here, and ``atomic``, which alone gives files their names, asks. So a
new option, a shard that only an index names, or a config that lies beside a checkpoint cannot be forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path

_Known = set[tuple[int, int]]
_KNOWN: ContextVar[_Known | None] = ContextVar("_KNOWN", default=None)
"""Device and inode of each, which are those of every link to it; None where no command runs, as in the API."""

_MOST = 10_000
"""Files of a folder that are noted."""


def begin() -> None:
    """A command begins, which has read nothing."""
    _KNOWN.set(set())


def note(status: os.stat_result) -> None:
    """A file was opened."""
    known = _KNOWN.get()
    if known is not None:
        known.add((status.st_dev, status.st_ino))


def note_around(paths: Iterable[str], but: Path) -> None:
    """What other processes will read: each path, and as parts of a model may lie around, all files of its folder.

    Args:
        but: what is written: files that are called so, begin so or end so are no parts of a model.
    """
    found = [Path(path) for path in paths]
    for path in found:
        _note_path(path)
    for folder in dict.fromkeys(path if path.is_dir() else path.parent for path in found):
        with suppress(OSError, ValueError), os.scandir(folder) as entries:
            for _, entry in zip(range(_MOST), entries, strict=False):
                if not entry.name.startswith(but.name) and not entry.name.endswith(but.suffix):
                    _note_path(Path(entry.path))


def _note_path(path: Path) -> None:
    with suppress(OSError, ValueError):
        note(path.stat())


def is_read(target: Path) -> bool:
    """Whether the command that runs has read this file, under this name or another."""
    known = _KNOWN.get()
    if not known:
        return False
    try:
        status = target.stat()
    except (OSError, ValueError):
        return False
    return (status.st_dev, status.st_ino) in known
