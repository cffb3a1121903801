"""Ranges through fsspec: object stores, hubs and whatever else has a file system of its own there.

fsspec takes credentials from the environment and from the configuration of each store.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError, UsageError
from qkvinspect.sources import urls
from qkvinspect.sources.fetching import patiently
from qkvinspect.sources.folder import Entries
from qkvinspect.sources.transport import REFUSED, Answer, TemporaryError, failed, timeout

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az", "hf": "hf"}
_TELLING = ("ETag", "etag", "md5Hash", "generation", "blob_id", "content_settings", "LastModified", "last_modified")
"""Keys of a file's info that change when the file does; ``mtime`` and ``created`` where there is nothing better."""

_PATIENCE = 20
"""The factor by which the timeout is longer than that of a web server: requests here report nothing before they end."""

T = TypeVar("T")


class StoredFile:
    """A file of one of fsspec's file systems."""

    def __init__(self, url: str, system: Any, path: str) -> None:
        self._url = url
        self._system = system
        self._path = path
        self._size: int | None = None
        self._validator = ""

    @property
    def name(self) -> str:
        return urls.shown(self._url)

    @property
    def patience(self) -> float:
        return _PATIENCE * timeout()

    def is_folder(self) -> bool:
        return patiently(self.name, self._info)["type"] == "directory"

    def within(self, name: str) -> StoredFile:
        """A file in this folder."""
        return StoredFile(f"{self._url.rstrip('/')}/{name}", self._system, f"{self._path.rstrip('/')}/{name}")

    @contextmanager
    def fetch(self, start: int, stop: int) -> Generator[Answer]:
        if self._size is None:
            info = self._info()
            if info["type"] == "directory" or not isinstance(info["size"], int):
                raise CheckpointError(
                    "is not a file that can be inspected",
                    code=Code.FILE_DIRECTORY,
                    file=self.name,
                    expected="a file of a known size",
                    found=str(info["type"]),
                    hint="name the checkpoint file itself",
                )
            self._size, self._validator = info["size"], _validator(info)
        wanted = max(min(stop, self._size) - start, 0)
        data = self._try(lambda: self._read(start, wanted)) if wanted else b""
        if len(data) > wanted:
            raise CheckpointError(
                "comes with more bytes than were asked for",
                code=Code.FILE_ANSWER,
                file=self.name,
                expected=f"{wanted}",
                found=f"{len(data)}",
                hint="if the server does not give parts of files, copy it from there first",
            )
        yield Answer(self._size, self._validator, iter((data,) if data else ()))

    def beside(self, name: str) -> StoredFile:
        url = urls.beside(self._url, name)
        return StoredFile(url, self._system, f"{self._path.rpartition('/')[0]}/{name}")

    def names(self) -> tuple[str, ...]:
        return self._listed(self._path.rpartition("/")[0]).files

    def entries(self) -> Entries:
        """What lies in the folder that this is."""
        return self._listed(self._path)

    def _listed(self, folder: str) -> Entries:
        try:
            listed = partial(self._try, partial(self._system.ls, folder, detail=True))
            found: list[dict[str, Any]] = patiently(self.name, listed)
        except CheckpointError:
            return Entries()
        named = sorted((one["name"].rstrip("/").rpartition("/")[2], one["type"]) for one in found)
        files = tuple(name for name, kind in named if kind == "file")
        return Entries(files, tuple(name for name, kind in named if kind == "directory"))

    def matches(self) -> tuple[str, ...]:
        """The addresses of the files that this names, which may have wildcards as fsspec knows them."""
        found: list[str] = patiently(self.name, lambda: self._try(lambda: self._system.glob(self._path)))
        return tuple(self._system.unstrip_protocol(one) for one in sorted(found))

    def renew(self) -> None:
        self._system.invalidate_cache()

    def validator(self) -> str | None:
        if self._size is None:
            return None
        return _validator(self._info())

    def close(self) -> None:
        pass

    def _read(self, start: int, length: int) -> bytes:
        if getattr(self._system, "async_impl", False):
            return self._system.cat_file(self._path, start=start, end=start + length)
        with self._system.open(self._path, "rb", cache_type="none") as file:
            file.seek(start)
            return file.read(length)

    def _info(self) -> dict[str, Any]:
        return self._try(lambda: self._system.info(self._path))

    def _try(self, ask: Callable[[], T]) -> T:
        """Call the file system. Of its errors only the kind is reported: messages may hold addresses or keys."""
        try:
            return ask()
        except (FileNotFoundError, NotADirectoryError):
            raise self._wrong(Code.FILE_MISSING, "is not there") from None
        except PermissionError:
            raise self._wrong(Code.FILE_PERMISSION, "may not be read") from None
        except OSError as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in REFUSED:  # as huggingface_hub says it
                raise self._wrong(*REFUSED[status]) from None
            raise TemporaryError(f"the file system fails ({type(error).__name__})") from None
        except Exception as error:
            raise failed(self.name, "cannot be fetched", type(error).__name__) from None

    def _wrong(self, code: Code, message: str) -> CheckpointError:
        return CheckpointError(
            message, code=code, file=self.name, hint="check the address, and the credentials of the environment"
        )


def connect(url: str) -> StoredFile:
    """The file or folder of a URL; no request is made yet.

    Raises:
        UsageError: fsspec does not know such URLs, or a package is missing.
    """
    scheme = urls.scheme(url)
    try:
        fsspec: Any = import_module("fsspec.core")
        system, path = fsspec.url_to_fs(url)
        system.invalidate_cache()  # one of the same kind may have been asked before, in this process
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        hint = f"pip install 'qkvinspect[{extra}]'" if extra else f"pip install what fsspec needs for {scheme}://"
        raise UsageError(f"{scheme}:// needs a package that is missing", file=urls.shown(url), hint=hint) from error
    except ValueError as error:
        known = "not known" not in str(error)
        message = f"is no URL of the file system {scheme}://" if known else f"{scheme}:// is no file system of fsspec"
        raise UsageError(message, file=urls.shown(url), hint="check how it is written") from None
    except Exception as error:
        raise failed(urls.shown(url), "cannot be opened", type(error).__name__) from None
    return StoredFile(url, system, path)


def _validator(info: dict[str, Any]) -> str:
    told = {key: str(info[key]) for key in _TELLING if info.get(key)} or {
        key: str(info[key]) for key in ("mtime", "created") if info.get(key)
    }
    return f"{info.get('size')} {sorted(told.items())}"
