"""Files compared with a manifest of sha256sum, and with what a model hub says of its large files."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest


@pytest.fixture
def model(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(samples / "sharded", tmp_path / "sharded")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sharded"


def found(result: Any) -> list[str]:
    (one,) = result.json()["checkpoints"]
    return [finding["message"] for finding in one["findings"] if finding["code"] == "digest-differs"]


def test_what_sha256sum_wrote(model: Path, run: Any) -> None:
    files = sorted(path.name for path in model.iterdir())
    for flags in ([], ["--tag"], ["-b"]):
        text = subprocess.run(["sha256sum", *flags, *files], cwd=model, capture_output=True, text=True, check=True)
        Path("SUMS").write_text(text.stdout)
        result = run("check", "sharded", "--sha256", "SUMS", "-f", "json")
        assert (result.code, found(result)) == (0, [])
    shard = next(path for path in sorted(model.iterdir()) if path.suffix == ".safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1  # of the least worth: no other check can see it
    shard.write_bytes(data)
    result = run("check", "sharded", "--sha256", "SUMS", "-f", "json")
    (message,) = found(result)
    assert result.code == 1
    assert shard.name in message
    assert sha256(data).hexdigest() in message
    assert run("check", "sharded").code == 0


def test_a_file_that_the_manifest_lacks(model: Path, run: Any) -> None:
    Path("SUMS").write_text(f"{'0' * 64}  another.bin\n")
    result = run("check", "sharded", "--sha256", "SUMS", "-f", "json")
    assert result.code == 1
    assert all("has no digest of it" in message for message in found(result))
    assert len(found(result)) >= 2


@pytest.mark.parametrize("text", ["", "hello\n", "0" * 63 + "  a\n", f"{'0' * 64}  a\n{'1' * 64}  a\n", "\0" * 100])
def test_what_is_no_manifest(text: str, model: Path, run: Any) -> None:
    Path("SUMS").write_text(text)
    result = run("check", "sharded", "--sha256", "SUMS")
    assert (result.code, result.out) == (2, "")
    assert "SUMS" in result.err
    assert result.err.count("\n") == 1


def test_a_manifest_without_end_or_that_is_not_there(model: Path, run: Any) -> None:
    for name in ("/dev/zero", "nothing", "."):
        result = run("check", "sharded", "--sha256", name)
        assert (result.code, result.err.count("\n")) == (2, 1)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A hub that gives these answers, by path and query."""
    answers: dict[str, bytes] = {}

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield answers
    server.shutdown()
    server.server_close()


def test_what_a_hub_says(model: Path, run: Any, hub: dict[str, bytes]) -> None:
    def said(path: Path) -> dict[str, object]:
        data = path.read_bytes()
        return {"rfilename": path.name, "size": len(data), "lfs": {"sha256": sha256(data).hexdigest(), "size": 1}}

    siblings = [said(path) for path in sorted(model.iterdir())]
    siblings.append({"rfilename": "README.md", "blobId": "0" * 40})
    hub["/api/models/some/model/revision/main?blobs=true"] = json.dumps({"siblings": siblings}).encode()
    result = run("check", "sharded", "--hub", "some/model", "-f", "json")
    assert (result.code, found(result)) == (0, [])
    for one in siblings[:-1]:
        one["lfs"]["sha256"] = "f" * 64  # type: ignore[index]
    hub["/api/models/some/model/revision/v1%2F2?blobs=true"] = json.dumps({"siblings": siblings}).encode()
    result = run("check", "sharded", "--hub", "some/model@v1/2", "-f", "json")
    assert result.code == 1
    assert all("some/model@v1/2 says ffff" in message for message in found(result))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no",
        b"[]",
        b'{"siblings": 3}',
        b'{"siblings": [1, {"lfs": 2}, {"rfilename": "a", "lfs": {}}]}',
        b"[" * 9999,
    ],
)
def test_a_hub_that_says_nonsense(answer: bytes, model: Path, run: Any, hub: dict[str, bytes]) -> None:
    hub["/api/models/some/model/revision/main?blobs=true"] = answer
    result = run("check", "sharded", "--hub", "some/model")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("name", ["", "x", "../etc", "a/b/c", "a/b?x=1", "http://a/b"])
def test_what_is_no_repository(name: str, model: Path, run: Any, hub: dict[str, bytes]) -> None:
    result = run("check", "sharded", "--hub", name)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
