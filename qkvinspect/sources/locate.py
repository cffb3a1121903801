"""Resolve a URL to a remote file or folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from qkvinspect.checkpoint import ByteSource
from qkvinspect.errors import UsageError
from qkvinspect.sources import urls
from qkvinspect.sources.filesystem import StoredFile, connect
from qkvinspect.sources.folder import Entries
from qkvinspect.sources.remote import Reach, RemoteFile
from qkvinspect.sources.transport import Transport


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A URL that names a folder."""

    url: str
    reach: Reach
    stored: StoredFile | None = None

    @property
    def name(self) -> str:
        return urls.shown(self.url)

    def entries(self) -> Entries | None:
        """What lies in it; None of the web, where nothing can be listed."""
        return None if self.stored is None else self.stored.entries()

    def folder(self, name: str) -> RemoteFolder:
        """A folder in it."""
        url = f"{urls.beside(self.url, name)}/" if self.stored is None else f"{self.url.rstrip('/')}/{name}"
        return RemoteFolder(url, self.reach, self.stored and self.stored.within(name))

    def open(self, name: str) -> RemoteFile:
        """A file in it, or below it."""
        return RemoteFile(self._transport(name), self.reach)

    def open_all(self, names: Sequence[str]) -> list[ByteSource]:
        """Files of one checkpoint, fetched by the same threads into one temporary file; close the first last."""
        first = self.open(names[0])
        return [first, *(first.another(self._transport(name)) for name in names[1:])]

    def _transport(self, name: str) -> Transport:
        return _web(urls.beside(self.url, name), self.reach) if self.stored is None else self.stored.within(name)


def remote(url: str, reach: Reach) -> RemoteFile | RemoteFolder:
    """The file or folder of a URL. On the web a folder's URL ends with a slash; elsewhere the store is asked.

    Raises:
        CheckpointError: it is not there, or may not be read.
        UsageError: it needs a package that is missing.
    """
    urls.require_sound(url)
    if urls.is_web(url):
        is_folder = urlsplit(url).path.endswith("/")
        return RemoteFolder(url, reach) if is_folder else RemoteFile(_web(url, reach), reach)
    stored = connect(url)
    return RemoteFolder(url, reach, stored) if stored.is_folder() else RemoteFile(stored, reach)


def matches(pattern: str) -> tuple[str, ...]:
    """The addresses that match one with wildcards.

    Raises:
        CheckpointError: they cannot be listed.
        UsageError: as ``remote``; or it is of the web, where nothing can be listed.
    """
    if urls.is_web(pattern):
        raise UsageError("a web server does not list its files", file=urls.shown(pattern), hint="name each of them")
    return connect(pattern).matches()


def _web(url: str, reach: Reach) -> Transport:
    from qkvinspect.sources.http import HttpFile

    return HttpFile(url, whole=reach.download)
