"""The files of a folder; listed once for all checkpoints in it, as a run may leave thousands in one."""

from __future__ import annotations

import os
import time

from qkvinspect.fast_tuple import NamedTuple

_SETTLED = 2_000_000_000
"""Nanoseconds after which a second change shows in a folder's time: some file systems store whole seconds."""


class _Listed(NamedTuple):
    folder: str
    state: tuple[int, int, int]
    names: tuple[str, ...]


_last: _Listed | None = None


def files(folder: str) -> tuple[str, ...]:
    """Names of the regular files in a folder, sorted; none of one that cannot be listed.

    While the folder is the same and nothing is added to it or removed, it is the same tuple.
    """
    global _last  # noqa: PLW0603
    try:
        found = os.stat(folder)
        state = found.st_dev, found.st_ino, found.st_mtime_ns
        known = _last
        if known is not None and (known.folder, known.state) == (folder, state):
            return known.names
        with os.scandir(folder) as entries:
            names = tuple(sorted(entry.name for entry in entries if entry.is_file()))
    except OSError:
        return ()
    if time.time_ns() - found.st_mtime_ns > _SETTLED:
        _last = _Listed(folder, state, names)
    return names
