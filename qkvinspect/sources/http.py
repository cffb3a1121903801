"""Ranges by HTTP, through requests: it follows the environment's proxies, certificates and ~/.netrc.

Not through fsspec's HTTPFileSystem, which checks little. Here the status, Content-Range, lengths and validators of
every answer must be those that were asked for, redirects are few and stay on the web, and no more is read than asked.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urljoin

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError, UsageError
from qkvinspect.late_pattern import late_pattern
from qkvinspect.sources import urls
from qkvinspect.sources.transport import REFUSED, Answer, TemporaryError, failed, timeout
from qkvinspect.version import __version__

try:
    import requests
    import urllib3
    from requests.adapters import HTTPAdapter
except ImportError as error:
    raise UsageError("http needs a package that is missing", hint="pip install 'qkvinspect[http]'") from error

_PIECE = 256 << 10
_LEAST = 64 << 10
"""Bytes that must arrive within the timeout: a server that only trickles counts as silent."""

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_RANGE = late_pattern(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_NUMBER = late_pattern(r"\d{1,18}")


class HttpFile:
    """A file on a web server.

    Args:
        whole: whether the whole file may come where the server gives no ranges.
    """

    def __init__(self, url: str, *, whole: bool, session: requests.Session | None = None) -> None:
        self._url = url
        self._whole = whole
        self._timeout = timeout()
        self._session = session or _session()

    @property
    def name(self) -> str:
        return urls.shown(self._url)

    @property
    def patience(self) -> float:
        return 2 * self._timeout

    @contextmanager
    def fetch(self, start: int, stop: int) -> Generator[Answer]:
        with closing(self._ask(f"bytes={start}-{stop - 1}")) as response:
            try:
                yield self._answer(response, start, stop)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                raise self._temporary(error) from None

    def beside(self, name: str) -> HttpFile:
        return HttpFile(urls.beside(self._url, name), whole=self._whole, session=self._session)

    def names(self) -> None:
        return None

    def renew(self) -> None:
        pass

    def validator(self) -> None:
        return None

    def close(self) -> None:
        self._session.close()

    def _ask(self, wanted: str) -> requests.Response:
        url = self._url
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                response = self._session.get(
                    url, headers={"Range": wanted}, stream=True, allow_redirects=False, timeout=self._timeout
                )
                if response.status_code not in _REDIRECTS:
                    return response
                with closing(response):
                    length = response.headers.get("Content-Length", "")
                    if _NUMBER.fullmatch(length) and int(length) <= _LEAST:
                        response.raw.read(_LEAST, decode_content=False)  # which keeps the connection
                    target = _joined(url, response.headers.get("Location", ""))
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, ValueError):
                raise self._wrong(Code.FILE_PATH, "is not an address that can be asked") from None
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                raise self._temporary(error) from None
            if not urls.is_web(target) or (urls.scheme(url) == "https" and urls.scheme(target) != "https"):
                raise self._wrong(Code.FILE_ANSWER, "is redirected to where it is not followed", urls.scheme(target))
            url = target
        raise self._wrong(Code.FILE_ANSWER, "is redirected again and again", f"{_MOST_REDIRECTS + 1} redirects")

    def _answer(self, response: requests.Response, start: int, stop: int) -> Answer:
        status, headers = response.status_code, response.headers
        if status in _BUSY:
            raise TemporaryError(f"the server answers {status}", _wait(headers.get("Retry-After", "")))
        if status in REFUSED:
            raise self._wrong(*REFUSED[status], f"status {status}")
        if status == 416 and not start and headers.get("Content-Range", "").endswith("*/0"):
            return Answer(0, _validator(headers), iter(()))
        if status in (412, 416):
            raise self._wrong(Code.FILE_CHANGED, "was changed or replaced while it was read", f"status {status}")
        if status not in (200, 206):
            raise self._wrong(Code.FILE_OPEN, "cannot be opened", f"status {status}")
        if headers.get("Content-Encoding", "identity") != "identity":
            raise self._wrong(Code.FILE_ANSWER, "comes encoded, which was not asked for", "a Content-Encoding")
        length = headers.get("Content-Length", "")
        length = int(length) if _NUMBER.fullmatch(length) else None
        if status == 200:
            return self._without_range(response, length, start, stop)
        first, last, size = self._range(headers.get("Content-Range", ""))
        wanted = min(stop, size) - start
        if first != start or last + 1 - first != wanted or length not in (None, wanted):
            found = f"bytes {first} to {last + 1} of {size}, in {'chunks' if length is None else f'{length} bytes'}"
            raise self._wrong(Code.FILE_ANSWER, "comes with another range than was asked for", found)
        return Answer(size, _validator(headers), self._pieces(response, wanted))

    def _without_range(self, response: requests.Response, length: int | None, start: int, stop: int) -> Answer:
        """The answer of a server that ignores ranges, or whose whole file fits in the range."""
        validator = _validator(response.headers)
        if not start and length is not None and length <= stop:
            return Answer(length, validator, self._pieces(response, length))
        if self._whole:
            return Answer(length, validator, self._pieces(response, length), whole=True)
        raise CheckpointError(
            "is on a server that does not give parts of files",
            code=Code.FILE_RANGES,
            file=self.name,
            expected="status 206",
            found="200, the whole file" + (f" of {length} bytes" if length is not None else ""),
            hint="--download fetches all of it to a temporary file first",
        )

    def _range(self, text: str) -> tuple[int, int, int]:
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            raise self._wrong(Code.FILE_ANSWER, "comes without saying which range it is", repr(text[:60]))
        first, last, size = map(int, found.groups())
        return first, last, size

    def _pieces(self, response: requests.Response, left: int | None) -> Iterator[bytes]:
        """The body as it arrives, in pieces of a fixed size, or of what arrives in a second."""
        due, came = time.monotonic() + self._timeout, 0
        gathered, told = bytearray(), time.monotonic()
        while left is None or left:
            piece = response.raw.read1(_PIECE if left is None else min(_PIECE, left), decode_content=False)
            if not piece:
                break
            left = None if left is None else left - len(piece)
            gathered += piece
            now = time.monotonic()
            if len(gathered) >= _PIECE or now - told > 1:
                yield bytes(gathered)
                gathered.clear()
                told = now
            came += len(piece)
            if now > due:
                if came < _LEAST:
                    raise TemporaryError(f"only {came} bytes came in {self._timeout:g} seconds")
                due, came = now + self._timeout, 0
        if gathered:
            yield bytes(gathered)

    def _temporary(self, error: Exception) -> TemporaryError | CheckpointError:
        """Describe an error without the URL, which messages of the libraries repeat with its secrets."""
        kinds = {type(found).__name__ for found in _causes(error)}
        if any("SSL" in kind or "Certificate" in kind for kind in kinds):
            return failed(self.name, "is on a server whose certificate cannot be trusted, or that speaks no TLS")
        if "NameResolutionError" in kinds or "gaierror" in kinds:
            return failed(self.name, "is on a server whose name is not known")
        if any("Timeout" in kind for kind in kinds):
            return TemporaryError(f"the server was silent for {self._timeout:g} seconds")
        refused = "ConnectionRefusedError" in kinds
        return TemporaryError("no server listens there" if refused else "the connection broke")

    def _wrong(self, code: Code, message: str, found: str | None = None) -> CheckpointError:
        hint = "look at the address, and at what a browser or curl gets from it"
        return CheckpointError(message, code=code, file=self.name, found=found, hint=hint)


class _WithoutRedirects(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Follow no redirects here: requests would first read the whole body of each, however long."""


def _session() -> requests.Session:
    session = _WithoutRedirects()
    session.headers.update({"User-Agent": f"qkvinspect/{__version__}", "Accept-Encoding": "identity"})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    adapter = HTTPAdapter(pool_connections=8, pool_maxsize=8)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _joined(url: str, target: str) -> str:
    try:
        return urljoin(url, target.encode("latin-1").decode())
    except ValueError:
        return ""


def _validator(headers: Mapping[str, str]) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def _wait(text: str) -> float:
    """Seconds that Retry-After asks for: a number, or a date."""
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


def _causes(error: BaseException | None) -> Iterator[object]:
    """An error, what it was made of, and what caused it."""
    for _ in range(8):
        if error is None:
            return
        yield error
        inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, Exception)), None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
