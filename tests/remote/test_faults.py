"""Servers and networks that fail or lie: each kind with its outcome, which is the right answer or one line."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.long import long
from tests.remote import files
from tests.remote.server import Asked, Fault, Handler, Web

Outcome = Callable[..., Any]
NAME = "model.safetensors"


@pytest.fixture(autouse=True)
def model(tmp_path: Path) -> Path:
    """Larger than the first request."""
    save_file(files.small(), tmp_path / NAME)
    return tmp_path / NAME


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QKVINSPECT_TIMEOUT", "0.5")


def once(fault: Fault, *, at: int = 2) -> Fault:
    """The fault in answer to one request for the model only: the second begins with its data."""
    return lambda handler, asked: asked.name == NAME and asked.number == at and fault(handler, asked)


def after(fault: Fault, *, at: int = 2) -> Fault:
    """The fault from some request on."""
    return lambda handler, asked: asked.name == NAME and asked.number >= at and fault(handler, asked)


def answers(status: int, **headers: str) -> Fault:
    def fault(handler: Handler, asked: Asked) -> bool:
        handler.refuse(status, **headers)
        return True

    return fault


def changed(**headers: str | None) -> Fault:
    """The right answer but for some headers."""

    def fault(handler: Handler, asked: Asked) -> bool:
        handler.close_connection = True
        handler.give(asked, **headers)
        return True

    return fault


def reset(handler: Handler, asked: Asked) -> bool:
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True
    handler.connection.close()
    return True


def half(handler: Handler, asked: Asked) -> bool:
    """Half of the bytes, then the connection breaks."""
    path = handler.web.folder / asked.name
    start, stop = asked.range or (0, 0)
    stop = min(stop, path.stat().st_size)
    size = path.stat().st_size
    etag = f'"{path.stat().st_mtime_ns:x}-{size:x}"'
    said = {"Content-Length": str(stop - start), "Content-Range": f"bytes {start}-{stop - 1}/{size}", "ETag": etag}
    handler.head(206, said)
    handler.body(asked, path, start, start + (stop - start) // 2)
    handler.cut()
    return True


def whole(handler: Handler, asked: Asked) -> bool:
    asked.range = None
    return False


def whole_in_chunks(handler: Handler, asked: Asked) -> bool:
    data = (handler.web.folder / asked.name).read_bytes()
    handler.head(200, {"Transfer-Encoding": "chunked"})
    for start in range(0, len(data), 100_000):
        piece = data[start : start + 100_000]
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")
    return True


def another_length(handler: Handler, asked: Asked) -> bool:
    start, stop = asked.range or (0, 0)
    handler.give(asked, Content_Range=f"bytes {start}-{stop - 1}/99999999")
    return True


def another_range(handler: Handler, asked: Asked) -> bool:
    size = (handler.web.folder / asked.name).stat().st_size
    start, stop = asked.range or (0, 0)
    stop = min(stop, size)
    handler.give(asked, Content_Range=f"bytes {start + 1}-{stop}/{size + 1}" if not start else f"bytes 0-9/{size}")
    return True


def redirect_to(target: str) -> Fault:
    return answers(302, Location=target)


def redirect_without_end(handler: Handler, asked: Asked) -> bool:
    handler.close_connection = True
    handler.head(302, {"Location": f"/{NAME}"})
    while asked.sent < 1 << 27:
        handler.wfile.write(bytes(1 << 16))
        asked.sent += 1 << 16
    return True


def silent(handler: Handler, asked: Asked) -> bool:
    time.sleep(3)
    handler.close_connection = True
    return True


def trickle_of_headers(handler: Handler, asked: Asked) -> bool:
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 206 Partial Content\r\n")
    for number in range(40):
        handler.wfile.write(b"X-%d: y\r\n" % number)
        handler.wfile.flush()
        time.sleep(0.05)
    return True


def trickle(handler: Handler, asked: Asked) -> bool:
    handler.close_connection = True
    path = handler.web.folder / asked.name
    start, stop = asked.range or (0, 0)
    size = path.stat().st_size
    stop = min(stop, size)
    etag = f'"{path.stat().st_mtime_ns:x}-{size:x}"'
    said = {"Content-Length": str(stop - start), "Content-Range": f"bytes {start}-{stop - 1}/{size}", "ETag": etag}
    handler.head(206, said)
    for at in range(start, start + 60):
        handler.body(asked, path, at, at + 1)
        handler.wfile.flush()
        time.sleep(0.05)
    return True


def endless(handler: Handler, asked: Asked) -> bool:
    """The right headers, and bytes until the other side hangs up; the first are those asked for."""
    handler.close_connection = True
    handler.give(asked, Content_Length=None)
    while asked.sent < 1 << 26:
        handler.wfile.write(bytes(1 << 16))
        asked.sent += 1 << 16
    return True


MENDED = {
    "reset": once(reset),
    "reset of the first": once(reset, at=1),
    "truncated": once(half),
    "truncated twice": lambda handler, asked: asked.number in (2, 3) and half(handler, asked),
    "429": once(answers(429, Retry_After="0")),
    "429 with a date": once(answers(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")),
    "503 of the first": once(answers(503), at=1),
    "silent once": once(silent),
    "endless": after(endless),
    "endless redirect": once(redirect_without_end, at=1),
}


@pytest.mark.parametrize("kind", MENDED)
def test_what_is_mended(run, web: Web, model: Path, kind: str) -> None:
    web.fault = MENDED[kind]
    report = run("show", "--no-evidence", f"{web.url}/{NAME}", "-f", "json")
    assert report.code == 0, report.err
    expected = run("show", "--no-evidence", model, "-f", "json").json()
    assert report.json()["attentions"] == expected["attentions"]
    assert len(web.of(NAME)) > 1
    assert web.sent < (4 << 20) * len(web.asked)


SLOW = ("silent", "trickle", "trickle of headers")
"""What takes as long as the tool is patient, with each of its tries."""

REFUSED = {
    "truncated always": (after(half), "F017", "cannot be fetched"),
    "reset always": (after(reset), "F017", "cannot be fetched: the connection broke"),
    "503 always": (after(answers(503)), "F017", "the server answers 503"),
    "429 for an hour": (after(answers(429, Retry_After="3600")), "F017", "3600 seconds"),
    "no ranges": (after(whole, at=1), "F018", "--download"),
    "no ranges later": (after(whole), "F018", "--download"),
    "another ETag": (after(changed(ETag='"other"')), "F014", "changed or replaced"),
    "no ETag any more": (after(changed(ETag=None)), "F014", "changed or replaced"),
    "another length": (after(another_length), "F014", "found one of 99999999 bytes"),
    "precondition": (after(answers(412)), "F014", "changed or replaced"),
    "range gone": (after(answers(416)), "F014", "changed or replaced"),
    "another range": (after(another_range), "F019", "another range"),
    "another range at first": (after(another_range, at=1), "F019", "another range"),
    "no Content-Range": (after(changed(Content_Range=None)), "F019", "which range"),
    "Content-Range of no size": (after(changed(Content_Range="bytes 0-9/*")), "F019", "which range"),
    "Content-Range of a huge size": (after(changed(Content_Range="bytes 0-9/" + "9" * 5000)), "F019", "which range"),
    "Content-Length too long": (after(changed(Content_Length="99999999")), "F019", "another range"),
    "Content-Length too short": (after(changed(Content_Length="10")), "F019", "another range"),
    "encoded": (after(changed(Content_Encoding="gzip")), "F019", "encoded"),
    "redirects": (after(redirect_to(f"/{NAME}")), "F019", "again and again"),
    "redirect to a file": (after(redirect_to("file:///etc/passwd"), at=1), "F019", "is redirected to where"),
    "redirect to ftp": (after(redirect_to("ftp://127.0.0.1/x"), at=1), "F019", "is redirected to where"),
    "redirect to nowhere": (after(redirect_to("http://[::1/"), at=1), "F019", "is redirected to where"),
    SLOW[0]: (after(silent), "F017", "silent for 0.2 seconds"),
    SLOW[1]: (after(trickle), "F017", "bytes came in 0.2 seconds"),
    SLOW[2]: (after(trickle_of_headers), "F017", "nothing has come"),
    "404": (after(answers(404), at=1), "F001", "is not there"),
    "404 later": (after(answers(404)), "F001", "is not there"),
    "403": (after(answers(403), at=1), "F002", "may not be read"),
    "401": (after(answers(401), at=1), "F002", "who you are"),
    "500 of another kind": (after(answers(505), at=1), "F004", "status 505"),
}


@pytest.mark.parametrize("kind", long({"trickle"}.__contains__, REFUSED))
def test_what_is_refused(run, web: Web, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    web.fault, code, words = REFUSED[kind]
    if kind in SLOW:
        monkeypatch.setenv("QKVINSPECT_TIMEOUT", "0.2")
    begun = time.monotonic()
    result = run("show", "--no-evidence", f"{web.url}/{NAME}")
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert f"[QKV-{code}" in result.err
    assert words in result.err
    assert result.err.startswith(f"error: {web.url}/{NAME}: ")
    assert time.monotonic() - begun < 60
    assert web.sent < 8 << 20
    assert len(web.asked) < 60


OK = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-131071/1062000\r\n"
RAW = {
    "nothing": b"",
    "noise": bytes(range(256)) * 20,
    "no headers": b"HTTP/1.1 206\r\n\r\n",
    "status": b"HTTP/1.1 999 What\r\n\r\n",
    "negative status": b"HTTP/1.1 -20 What\r\n\r\n",
    "a long line": OK + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    "many headers": OK + b"X: y\r\n" * 1000 + b"\r\n",
    "no colon": OK + b"nonsense\r\n\r\n",
    "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a huge chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 131072\r\n\r\n",
    "a negative length": OK + b"Content-Length: -5\r\n\r\n",
    "not latin": b"HTTP/1.1 302 \xff\r\nLocation: \xff\xfe://\x00\r\n\r\n",
    "no location": b"HTTP/1.1 302 Found\r\n\r\n",
    "cookies": OK + b"Set-Cookie: " + b"a=b;" * 1000 + b"\r\n\r\n",
    "strange dates": b"HTTP/1.1 503 No\r\nRetry-After: Mon, 01 Jan 0001 00:00:00 -2359\r\n\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "old": b"<html>old</html>",
}


@pytest.mark.parametrize("kind", RAW)
def test_what_is_no_proper_answer(run, web: Web, kind: str) -> None:
    def raw(handler: Handler, asked: Asked) -> bool:
        handler.wfile.write(RAW[kind])
        handler.cut()
        return True

    web.fault = after(raw, at=1)
    result = run("show", "--no-evidence", f"{web.url}/{NAME}")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "[QKV-F0" in result.err


def test_wrong_bytes_of_a_zip_are_seen(run, tmp_path: Path, web: Web) -> None:
    torch.save(files.small(), tmp_path / "model.pt")

    def other(handler: Handler, asked: Asked) -> bool:
        if asked.name == "model.pt" and asked.number > 2:
            path = tmp_path / "model.pt"
            handler.wfile.write = (
                lambda data, write=handler.wfile.write: write(  # type: ignore[method-assign]
                    data if data[:4] == b"HTTP" else data[:-1] + bytes([data[-1] ^ 1])
                )
            )
            handler.close_connection = True
            assert path.exists()
        return False

    web.fault = other
    result = run("show", f"{web.url}/model.pt")
    assert result.code == 2
    assert "QKV-F2" in result.err


@pytest.mark.parametrize("fault", [whole, whole_in_chunks])
def test_download(run, web: Web, model: Path, fault: Fault, tmp_path: Path) -> None:
    web.fault = after(fault, at=1)
    report = run("show", "--no-evidence", f"{web.url}/{NAME}", "-f", "json", "--download")
    assert report.json()["attentions"] == run("show", "--no-evidence", model, "-f", "json").json()["attentions"]
    assert len(web.of(NAME)) == 1
    assert run("export", "--split", "--all", f"{web.url}/{NAME}", "-o", tmp_path / "x.pt", "--download").code == 0


def test_download_begins_again_where_it_broke(run, web: Web, model: Path) -> None:
    def breaks(handler: Handler, asked: Asked) -> bool:
        whole(handler, asked)
        if asked.name != NAME or asked.number > 2:
            return False
        size = model.stat().st_size
        handler.head(200, {"Content-Length": str(size), "ETag": f'"{model.stat().st_mtime_ns:x}-{size:x}"'})
        handler.body(asked, model, 0, 200_000)
        handler.cut()
        return True

    web.fault = breaks
    report = run("show", "--no-evidence", f"{web.url}/{NAME}", "-f", "json", "--download")
    assert report.json()["attentions"] == run("show", "--no-evidence", model, "-f", "json").json()["attentions"]
    assert len(web.of(NAME)) == 3


def test_download_from_a_server_with_ranges(run, web: Web, model: Path) -> None:
    report = run("show", "--no-evidence", f"{web.url}/{NAME}", "-f", "json", "--download")
    assert report.json()["attentions"] == run("show", "--no-evidence", model, "-f", "json").json()["attentions"]
    assert sum(asked.sent for asked in web.of(NAME)) == model.stat().st_size


def test_download_of_what_never_ends(run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body without a length ends where half of the room for it is used."""
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(1 << 30, 0, 4 << 20))

    def pours(handler: Handler, asked: Asked) -> bool:
        handler.close_connection = True
        handler.head(200, {"Connection": "close"})
        while asked.sent < 1 << 27:
            handler.wfile.write(bytes(1 << 16))
            asked.sent += 1 << 16
        return True

    web.fault = after(pours, at=1)
    result = run("show", "--no-evidence", f"{web.url}/{NAME}", "--download")
    assert result.code == 2
    assert "no room" in result.err
    assert web.sent < 1 << 26


def test_small_files_need_no_ranges(run, web: Web, samples: Path) -> None:
    web.folder = samples
    web.fault = whole
    report = run("show", "--no-evidence", f"{web.url}/sharded/model.safetensors.index.json", "-f", "json")
    assert (
        report.json()["attentions"]
        == run("show", "--no-evidence", samples / "sharded", "-f", "json").json()["attentions"]
    )


def test_a_file_that_is_replaced_between_two_ranges(run, web: Web, model: Path) -> None:
    def replaced(handler: Handler, asked: Asked) -> bool:
        if asked.name == NAME and asked.number == 2:
            save_file(files.small(1), model)
        return False

    web.fault = replaced
    result = run("show", "--no-evidence", f"{web.url}/{NAME}")
    assert result.code == 2
    assert "QKV-F014" in result.err


def test_a_redirect_is_followed(run, web: Web, model: Path) -> None:
    (web.folder / "there").mkdir()
    (web.folder / "there" / NAME).write_bytes(model.read_bytes())
    web.fault = after(redirect_to(f"/there/{NAME}?Signature=secret"), at=1)
    report = run("show", "--no-evidence", f"{web.url}/{NAME}", "-f", "json")
    assert report.json()["attentions"] == run("show", "--no-evidence", model, "-f", "json").json()["attentions"]
    assert report.json()["checkpoint"]["path"] == f"{web.url}/{NAME}"


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/../../x", "http://127.0.0.1/x", "..%2fx"])
def test_an_index_cannot_lead_elsewhere(run, web: Web, name: str) -> None:
    (web.folder / "deep").mkdir()
    (web.folder / "secret.safetensors").write_bytes((web.folder / NAME).read_bytes())
    (web.folder / "deep/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    result = run("show", "--no-evidence", f"{web.url}/deep/model.safetensors.index.json")
    assert result.code == 2
    assert "QKV-F015" in result.err or "QKV-F001" in result.err
    assert all(asked.target.startswith("/deep/") for asked in web.asked)


def test_nobody_listens(run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    result = run("show", "--no-evidence", f"http://127.0.0.1:{port}/x.pt")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "no server listens there" in result.err


@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "http://[::1", "http://a b/x", "http://x:99999/y", "http://\udc80/"]
)
def test_what_is_no_address(run, url: str) -> None:
    result = run("show", "--no-evidence", url)
    assert (result.code, result.err.count("\n")) == (2, 1)


def test_a_setting_that_is_no_number(run, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QKVINSPECT_TIMEOUT", "soon")
    result = run("show", "--no-evidence", f"{web.url}/{NAME}")
    assert result.code == 2
    assert "QKVINSPECT_TIMEOUT" in result.err
