"""URLs as text: recognise them, show them without secrets, and join names to them."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.late_pattern import late_pattern

_URL = late_pattern(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WEB = ("http", "https")
_USER = late_pattern(r"://[^/?#]*@")
_PASSWORD = late_pattern(r"://[^/?#@:]*:[^/?#]*@")
_QUERY = late_pattern(r"[?#].*", re.DOTALL)


def is_remote(text: str) -> bool:
    """Whether it is a URL of something remote."""
    return _URL.match(text) is not None and scheme(text) != "file"


def local_path(text: str) -> Path:
    """The path of a file on this machine, which may be given as ``file:///path``."""
    if not _URL.match(text):
        return Path(text)
    from urllib.parse import unquote, urlsplit

    return Path(unquote(urlsplit(text).path))


def require_sound(url: str) -> None:
    """Refuse what only looks like a URL.

    Raises:
        CheckpointError: it cannot be parsed.
    """
    from urllib.parse import urlsplit

    try:
        if urlsplit(url).hostname or not is_web(url):
            return
    except ValueError:
        pass
    raise CheckpointError("is no URL", code=Code.FILE_PATH, file=shown(url), hint="check how it is written")


def scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def is_web(url: str) -> bool:
    """Whether it is fetched by HTTP itself: what follows its path is a query there, and a name elsewhere."""
    return scheme(url) in _WEB


def shown(url: str) -> str:
    """A URL without what may be secret, user and password and the query that may hold a signature; or a path."""
    if not is_remote(url):
        return url
    return _QUERY.sub("", (_USER if is_web(url) else _PASSWORD).sub("://", url))


def told_apart(url: str) -> str:
    """As ``shown``, and with a digest of what is not shown, if anything is: what a file may call it by."""
    known = shown(url)
    if known == url:
        return url
    from hashlib import sha256

    return f"{known}#{sha256(url.encode(errors='surrogateescape')).hexdigest()[:32]}"


def beside(url: str, name: str) -> str:
    """The URL of a file in the folder of another; the query goes along: one that signs may sign for the folder.

    Raises:
        CheckpointError: the name leads out of the folder.
    """
    require_plain(name, shown(url))
    if not is_web(url):
        return f"{url.rpartition('/')[0]}/{name}"
    from urllib.parse import quote, urlsplit, urlunsplit

    parts = urlsplit(url)
    path = f"{parts.path.rpartition('/')[0]}/{quote(name)}"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def require_plain(name: str, file: str) -> None:
    """Refuse a name that could lead out of the folder of ``file``.

    Raises:
        CheckpointError: it could.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise CheckpointError(
            "names a file outside its own folder",
            code=Code.FILE_ESCAPE,
            file=file,
            expected="a plain relative path",
            found=repr(name),
            hint="do not use this checkpoint, or mend its index",
        )
