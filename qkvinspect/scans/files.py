"""Which checkpoints are meant, which of them are this shard's, and whether one was changed since."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import has_magic, iglob
from hashlib import blake2b
from pathlib import Path
from urllib.parse import urlsplit

from qkvinspect.errors import UsageError
from qkvinspect.formats.directory import SUFFIXES, USUAL, below, is_one
from qkvinspect.sources import is_remote, local_path

_SHARD = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")
_READABLE = (*SUFFIXES, ".index.json")


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


def expand(patterns: Iterable[str]) -> Iterator[str]:
    """The checkpoints that paths, folders and globs name, as they come; some may come twice.

    Raises:
        UsageError: nothing has such a name.
    """
    for pattern in patterns:
        found = False
        for path in _matches(pattern):
            found = True
            yield path
        if not found:
            raise UsageError("no checkpoint matches", file=pattern)


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


def _matches(pattern: str) -> Iterator[str]:
    if is_remote(pattern):
        yield from _remote(pattern)
        return
    if pattern.startswith("file:"):
        pattern = str(local_path(pattern))
    if not has_magic(pattern) and not os.path.lexists(pattern):
        return
    if os.path.lexists(pattern):
        yield from map(_named, below(Path(pattern)))
        return
    anything = pattern.endswith("*")
    recursive = pattern.rstrip(os.sep).endswith("**")  # what lies below a folder that matches, matches, too
    whole = ""
    for match in iglob(pattern, recursive=True):  # noqa: PTH207  (Path.glob rewrites what it is given)
        path = Path(match)
        if whole and match.startswith(whole):
            continue  # a file of the checkpoint that its folder is
        if not path.is_dir():
            if not anything or match.endswith(_READABLE):
                yield str(path)
        elif is_one(path):
            whole = f"{path}{os.sep}"
            yield _named(path)
        elif not recursive:
            yield from (_named(one) for one in below(path) if one != path)


def _remote(pattern: str) -> Iterator[str]:
    if not has_magic(urlsplit(pattern).path):
        yield pattern
        return
    from qkvinspect.sources.locate import matches

    found = matches(pattern)
    yield from (url for url in found if not pattern.endswith("*") or url.endswith(_READABLE))


def _named(path: Path) -> str:
    """A folder with one file of any name is that file: it may be the first of a run."""
    names = os.listdir(path) if path.is_dir() else []
    files = [name for name in names if name.endswith(SUFFIXES)]
    alone = len(files) == 1 and files[0] not in USUAL and {*names} <= {*files, "config.json"}
    return str(path / files[0]) if alone else str(path)
