"""Select the checkpoints of a shard, and detect those that changed since the last scan."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b

from qkvinspect.errors import UsageError
from qkvinspect.late_pattern import late_pattern
from qkvinspect.sources import is_remote

_SHARD = late_pattern(r"([1-9]\d{0,5})/([1-9]\d{0,5})")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of so many equal shares of the work; which share a checkpoint belongs to depends on its path alone."""

    index: int = 1
    count: int = 1

    def __contains__(self, path: object) -> bool:
        digest = blake2b(os.fsencode(str(path)), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """``3/8``: the third of eight.

    Raises:
        UsageError: it is no such thing.
    """
    found = _SHARD.fullmatch(text)
    if found is None or int(found[1]) > int(found[2]):
        raise UsageError("--shard is not understood", expected="I/N, such as 3/8, counted from 1", found=repr(text))
    return Shard(int(found[1]), int(found[2]))


def stamp(path: str) -> str:
    """What changes when the files of a checkpoint do: their sizes and times. "" of what is not on this machine's disks.

    A folder, and an index, stand for all files of their folder.
    """
    if is_remote(path):
        return ""
    try:
        folder = path if os.path.isdir(path) else os.path.dirname(path) or "." if path.endswith(".json") else None  # noqa: PTH112
        if folder is None:
            return _stamp(os.stat(path))
        with os.scandir(folder) as entries:
            parts = sorted(f"{entry.name}:{_stamp(entry.stat())}" for entry in entries if entry.is_file())
        return blake2b("\n".join(parts).encode(errors="surrogateescape"), digest_size=16).hexdigest()
    except OSError:
        return ""


def _stamp(found: os.stat_result) -> str:
    return f"{found.st_size}:{found.st_mtime_ns}"
