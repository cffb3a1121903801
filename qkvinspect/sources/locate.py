"""Resolve a URL to a remote file or folder."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from qkvinspect.errors import UsageError
from qkvinspect.sources import urls
from qkvinspect.sources.filesystem import StoredFile, connect
from qkvinspect.sources.remote import Reach, RemoteFile


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A URL that names a folder."""

    url: str
    reach: Reach
    folder: StoredFile | None = None

    @property
    def name(self) -> str:
        return urls.shown(self.url)

    def names(self) -> tuple[str, ...] | None:
        """The names of its files; None where they cannot be listed."""
        return None if self.folder is None else self.folder.names_within()

    def file(self, name: str) -> RemoteFile:
        """A file in it."""
        if self.folder is None:
            return _web(urls.beside(self.url, name), self.reach)
        return RemoteFile(self.folder.within(name), self.reach)


def remote(url: str, reach: Reach) -> RemoteFile | RemoteFolder:
    """The file or folder of a URL. On the web a folder's URL ends with a slash; elsewhere the store is asked.

    Raises:
        CheckpointError: it is not there, or may not be read.
        UsageError: it needs a package that is missing.
    """
    urls.require_sound(url)
    if urls.is_web(url):
        return RemoteFolder(url, reach) if urlsplit(url).path.endswith("/") else _web(url, reach)
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


def _web(url: str, reach: Reach) -> RemoteFile:
    from qkvinspect.sources.http import HttpFile

    return RemoteFile(HttpFile(url, whole=reach.download), reach)
