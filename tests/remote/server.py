"""A web server on loopback that gives ranges, counts what it sends, and can be told to misbehave."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

PIECE = 1 << 18


@dataclass
class Asked:
    """One request.

    Attributes:
        name: the path in the folder.
        range: first byte and that after the last; None where there was no Range.
        number: which request for that name it is, from 1.
        sent: bytes of the body.
    """

    name: str
    range: tuple[int, int] | None
    number: int
    headers: dict[str, str]
    target: str
    sent: int = 0


Fault = Callable[["Handler", Asked], bool]
"""Answers in its own way and says so with True; False leaves it to the server."""


@dataclass
class Web:
    """The server.

    Attributes:
        asked: every request, in order.
        fault: what it does instead of answering, where it is told to misbehave.
        connections: how many were made.
    """

    folder: Path
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    fault: Fault | None = None
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, name: str) -> list[Asked]:
        return [one for one in self.asked if one.name == name]

    @property
    def sent(self) -> int:
        return sum(one.sent for one in self.asked)

    def note(self, name: str, wanted: tuple[int, int] | None, headers: dict[str, str], target: str) -> Asked:
        with self.lock:
            self.asked.append(Asked(name, wanted, len(self.of(name)) + 1, headers, target))
            return self.asked[-1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    web: Web

    def setup(self) -> None:
        with self.web.lock:
            self.web.connections += 1
        super().setup()

    def do_GET(self) -> None:
        name = unquote(urlsplit(self.path).path).lstrip("/")
        said = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        wanted = (int(said[1]), int(said[2]) + 1) if said else None
        asked = self.web.note(name, wanted, {k.lower(): v for k, v in self.headers.items()}, self.path)
        with suppress(ConnectionError):
            if self.web.fault is None or not self.web.fault(self, asked):
                self.give(asked)

    def give(self, asked: Asked, **changed: str | None) -> None:
        """Answer as a good server does, but for these headers (with _ for -)."""
        path = self.web.folder / asked.name
        if not path.is_file():
            self.refuse(404)
            return
        size = path.stat().st_size
        start, stop = asked.range or (0, size)
        stop = min(stop, size)
        if asked.range and start >= size:
            self.refuse(416, Content_Range=f"bytes */{size}")
            return
        headers = {
            "Content-Length": str(stop - start),
            "ETag": f'"{path.stat().st_mtime_ns:x}-{size:x}"',
            "Content-Range": f"bytes {start}-{stop - 1}/{size}" if asked.range else None,
        } | {name.replace("_", "-"): value for name, value in changed.items()}
        self.head(206 if asked.range else 200, headers)
        self.body(asked, path, start, stop)

    def body(self, asked: Asked, path: Path, start: int, stop: int) -> None:
        with path.open("rb") as file:
            file.seek(start)
            while start < stop and (data := file.read(min(PIECE, stop - start))):
                self.wfile.write(data)
                start += len(data)
                asked.sent += len(data)

    def head(self, status: int, headers: dict[str, str | None]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()

    def refuse(self, status: int, **headers: str) -> None:
        self.head(status, {"Content-Length": "0"} | {k.replace("_", "-"): v for k, v in headers.items()})

    def cut(self) -> None:
        """Break the connection."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # whoever hangs up in the middle is what is tested here


@contextmanager
def serving(folder: Path) -> Iterator[Web]:
    """A server for the files of a folder."""
    web = Web(folder)
    handler = type("Own", (Handler,), {"web": web})
    server = Server(("127.0.0.1", 0), handler)
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
