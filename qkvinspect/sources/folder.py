"""A folder of files, on this machine or in a store, for those who look for several files in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from qkvinspect.checkpoint import ByteSource
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.sources.local import LocalFile


class Entries(NamedTuple):
    """The names of what lies in a folder, sorted."""

    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


class Folder(Protocol):
    """Where the files of one checkpoint may lie."""

    @property
    def name(self) -> str:
        """Its path or URL, as a person would type it, without what may be secret."""
        ...

    def entries(self) -> Entries | None:
        """What lies in it; None where that cannot be listed."""
        ...

    def folder(self, name: str) -> Folder:
        """A folder in it."""
        ...

    def open(self, name: str) -> ByteSource:
        """A file in it, or below it where the name has slashes; who closes it closes no other.

        Raises:
            CheckpointError: it is not there or may not be read. A remote file may say so only when it is read.
        """
        ...

    def open_all(self, names: Sequence[str]) -> list[ByteSource]:
        """Several files that are one checkpoint, as ``open`` does; the first is to be closed last."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder on this machine."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def entries(self) -> Entries | None:
        try:
            with os.scandir(self.path) as found:
                entries = sorted((entry.name, entry.is_dir()) for entry in found)
        except OSError:
            return None
        files = tuple(name for name, is_folder in entries if not is_folder)
        return Entries(files, tuple(name for name, is_folder in entries if is_folder))

    def folder(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name)

    def open(self, name: str) -> LocalFile:
        return LocalFile(self.path / name, kept=False)

    def open_all(self, names: Sequence[str]) -> list[ByteSource]:
        return [self.open(name) for name in names]
