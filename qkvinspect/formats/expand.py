"""Expand paths, folders, globs and URLs into checkpoints, in the same way for every command that takes several."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from glob import has_magic, iglob
from pathlib import Path
from urllib.parse import urlsplit

from qkvinspect.errors import UsageError
from qkvinspect.formats.directory import SUFFIXES, USUAL, is_one
from qkvinspect.sources import is_remote, local_path
from qkvinspect.sources.nearby import suggestion
from qkvinspect.sources.urls import shown

_READABLE = (*SUFFIXES, ".index.json")


def expand(patterns: Iterable[str], *, existing: bool = False) -> Iterator[str]:
    """Yield the checkpoints that paths, folders and globs name; some may come twice.

    Args:
        existing: whether a name without a glob must exist; else the error is left to opening it.

    Raises:
        UsageError: nothing has such a name.
    """
    for pattern in patterns:
        found = False
        if existing and not is_remote(pattern) and not has_magic(pattern) and not os.path.lexists(_local(pattern)):
            raise UsageError("no checkpoint matches", file=pattern, hint=suggestion(Path(pattern)))
        for path in _matches(pattern):
            found = True
            yield path
        if not found:
            raise UsageError("no checkpoint matches", file=shown(pattern) if is_remote(pattern) else pattern)


def _local(pattern: str) -> str:
    return str(local_path(pattern)) if pattern.startswith("file:") else pattern


def _matches(pattern: str) -> Iterator[str]:
    if is_remote(pattern):
        yield from _remote(pattern)
        return
    pattern = _local(pattern)
    if os.path.lexists(pattern) or not has_magic(pattern):
        yield from map(_named, _below(Path(pattern)))
        return
    anything = pattern.endswith("*")
    recursive = pattern.rstrip(os.sep).endswith("**")  # a glob that matches a folder also matches what lies below it
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
            yield from (_named(one) for one in _below(path) if one != path)


def _remote(pattern: str) -> Iterator[str]:
    if not has_magic(urlsplit(pattern).path):
        yield pattern
        return
    from qkvinspect.sources.locate import matches

    found = matches(pattern)
    yield from (url for url in found if not pattern.endswith("*") or url.endswith(_READABLE))


def _named(path: Path) -> str:
    """The path to open for a folder: its only checkpoint if that has an unusual name, as in a run just begun."""
    names = os.listdir(path) if path.is_dir() else []
    files = [name for name in names if name.endswith(SUFFIXES)]
    alone = len(files) == 1 and files[0] not in USUAL and {*names} <= {*files, "config.json"}
    return str(path / files[0]) if alone else str(path)


def _below(path: Path) -> Iterator[Path]:
    """The checkpoints at a path: itself; or, if it is a folder that is none, those of the folders and files in it.

    Links to folders are followed, each folder once, however many lead to it.
    """
    if not path.is_dir() or is_one(path):
        yield path
        return
    found = False
    seen: set[tuple[int, int] | None] = {None}
    for folder, folders, names in os.walk(path, followlinks=True):
        here = Path(folder)
        if (identity := _identity(here)) in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if here != path and is_one(here):
            folders.clear()
            found = True
            yield here
            continue
        for name in sorted(names):
            if name.endswith(SUFFIXES):
                found = True
                yield here / name
    if not found:
        yield path  # opening it will say what is wrong


def _identity(folder: Path) -> tuple[int, int] | None:
    """A folder's identity, whatever links lead to it; None if it has just been removed."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
