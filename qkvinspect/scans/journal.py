"""The results of a scan so far, in an SQLite database beside the output that survives a kill.

It holds everything on disk, in the order of the output, so that memory does not grow with the number of checkpoints;
but for the URLs that hold what may be secret, which are kept in memory and in the file have another name.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from qkvinspect.errors import UsageError
from qkvinspect.scans.files import stamp
from qkvinspect.scans.rows import Scanned
from qkvinspect.sources.urls import told_apart

_TABLES = """
CREATE TABLE about (what TEXT NOT NULL);
CREATE TABLE found (
    path BLOB PRIMARY KEY, natural BLOB NOT NULL, step INTEGER, stamp TEXT, error TEXT, lines BLOB NOT NULL
);
CREATE INDEX ordered ON found (step IS NULL, step, natural, path);
"""
_WANTED = "CREATE TEMP TABLE wanted (natural BLOB, path BLOB, todo BOOL, PRIMARY KEY (natural, path)) WITHOUT ROWID"
_STAMP = "SELECT stamp FROM found WHERE path = ? AND error IS NULL"
_PAGE = "SELECT * FROM wanted WHERE (natural, path) > (?, ?) ORDER BY natural, path LIMIT 1000"

_PAUSE = 0.2
"""Seconds between two times that what was found is brought to disk: as much is done again after a kill."""


class Journal:
    """Every checkpoint of a scan, and what was found in it.

    Args:
        about: whatever the rows depend on; a journal that was made with something else is refused.

    Raises:
        UsageError: it is of another scan, or cannot be used.
    """

    def __init__(self, path: Path, about: dict[str, object]) -> None:
        self._path = path
        self._urls: dict[str, str] = {}
        what = sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()  # options may name URLs with secrets
        try:
            _make_private(path)
            self._database = sqlite3.connect(path)
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            known = self._database.execute("SELECT name FROM sqlite_master").fetchone()
            if known is None:
                self._database.executescript(f"BEGIN; {_TABLES}")
                self._database.execute("INSERT INTO about VALUES (?)", (what,))
                self._database.commit()
            elif self._database.execute("SELECT what FROM about").fetchone() != (what,):
                raise UsageError(
                    "was begun with other options, or by another version",
                    file=str(path),
                    hint="give the same ones, or --force to begin anew",
                )
        except OSError as error:
            raise UsageError(f"cannot be used: {error.strerror}", file=str(path), hint="check the folder") from error
        except sqlite3.Error as error:
            raise UsageError(f"cannot be used: {error}", file=str(path), hint="--force begins anew") from error
        self._kept = time.monotonic()

    def expect(self, paths: Iterable[str]) -> tuple[int, int]:
        """Note which checkpoints there are. How many, and how many of them are to be scanned.

        What failed, and what was changed since, is scanned again.
        """
        count = stale = 0
        self._database.execute(_WANTED)
        for path in paths:
            known_as = told_apart(path)
            if known_as != path:
                self._urls[known_as] = path
            key = os.fsencode(known_as)
            known = self._database.execute(
                "SELECT stamp FROM found WHERE path = ? AND error IS NULL", (key,)
            ).fetchone()
            todo = known is None or known[0] != stamp(path)
            values = (natural(known_as), key, todo)
            if self._database.execute("INSERT OR IGNORE INTO wanted VALUES (?, ?, ?)", values).rowcount:
                count += 1
                stale += todo
        return count, stale

    def todo(self) -> Iterator[str]:
        """What is to be scanned, in natural order; taken in pages, as results come in between."""
        last = b"", b""
        while page := self._database.execute(_PAGE, last).fetchall():
            named = (os.fsdecode(path) for _, path, todo in page if todo)
            yield from (self._urls.get(name, name) for name in named)
            last = page[-1][:2]

    def add(self, found: Scanned) -> None:
        """What a checkpoint gave: all of its rows, or none after a kill."""
        name = told_apart(found.path)
        values = (os.fsencode(name), natural(name), found.step, found.stamp, found.error, found.lines)
        self._database.execute("INSERT OR REPLACE INTO found VALUES (?, ?, ?, ?, ?, ?)", values)
        if time.monotonic() - self._kept > _PAUSE:
            self.keep()

    def keep(self) -> None:
        """Bring it to disk."""
        self._database.commit()
        self._kept = time.monotonic()

    def scanned(self) -> Iterator[Scanned]:
        """All that was found, by step and name; those without a step last."""
        every = self._database.execute(
            "SELECT path, stamp, step, error, lines FROM found ORDER BY step IS NULL, step, natural, path"
        )
        for path, *rest in every:
            yield Scanned(os.fsdecode(path), *rest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.keep()
        self._database.close()


def _make_private(path: Path) -> None:
    """Have the journal readable by its user alone: what is scanned may be nobody else's business."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def discard(path: Path) -> None:
    """Remove a journal, and what SQLite keeps beside one that was in use when its process was killed."""
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)


def journal_of(out: Path) -> Path:
    """Where the journal of an output is."""
    return out.with_name(f"{out.name}.journal")


def natural(path: str) -> bytes:
    """Bytes that sort the numbers in a name as numbers."""
    return os.fsencode(re.sub(r"\d+", lambda digits: digits[0].zfill(20), path))
