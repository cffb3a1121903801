"""Files compared with a manifest of sha256sum, and with what a model hub says of its large files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from qkvinspect.checks import digests
from tests.batches import batched


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
        result = run("check", "sharded", "--sha256", "SUMS", "-f", "json", "--no-evidence")
        assert (result.code, found(result)) == (0, [])
    shard = next(path for path in sorted(model.iterdir()) if path.suffix == ".safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1  # of the least worth: no other check can see it
    shard.write_bytes(data)
    result = run("check", "sharded", "--sha256", "SUMS", "-f", "json", "--no-evidence")
    (message,) = found(result)
    assert result.code == 1
    assert shard.name in message
    assert sha256(data).hexdigest() in message
    assert run("check", "sharded", "--no-evidence").code == 0


def test_a_file_that_the_manifest_lacks(model: Path, run: Any) -> None:
    Path("SUMS").write_text(f"{'0' * 64}  another.bin\n")
    result = run("check", "sharded", "--sha256", "SUMS", "-f", "json", "--no-evidence")
    assert result.code == 1
    assert all("has no digest of it" in message for message in found(result))
    assert len(found(result)) >= 2


def lines(model: Path, form: str = "{digest}  {name}", end: str = "\n") -> str:
    """A manifest of all files."""
    sums = {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(model.iterdir())}
    return "".join(form.format(digest=digest, DIGEST=digest.upper(), name=name) + end for name, digest in sums.items())


@batched(
    "form",
    [
        "{digest} *{name}",
        "{DIGEST}  ./{name}",
        "{digest}  a/../{name}",
        "{digest}  ../../../{name}",
        "{digest}  /somewhere/else/{name}",
        "{digest}  .//sharded/./{name}",
        "SHA256 ({name}) = {digest}",
        "SHA2-256({name})= {DIGEST}",
        "# a remark\n\n{digest}  {name}",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_manifest_in_any_form(form: str, end: str, encoding: str, model: Path) -> None:
    """Names with other folders stand for the only file that is called so; none is opened."""
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    Path("SUMS").write_bytes(mark + lines(model, form, end).encode(encoding))
    said = digests.read(Path("SUMS"))
    for path in model.iterdir():
        assert said.of(str(path)) == sha256(path.read_bytes()).hexdigest()


def test_names_that_sha256sum_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a\nb", "a\\nb", "a\\b", "\u2028", "\x0c", "a  b", "*a", "(a) = b", "\udcff"]
    for number, name in enumerate(names):
        Path(name).write_bytes(bytes([number]))
    for flags in ([], ["--tag"]):
        text = subprocess.run(["sha256sum", *flags, *names], capture_output=True, check=True)
        Path("SUMS").write_bytes(text.stdout)
        said = digests.read(Path("SUMS"))
        for number, name in enumerate(names):
            assert said.of(name) == sha256(bytes([number])).hexdigest(), (flags, name)


def test_the_file_that_is_wrong_and_the_one_that_is_missing_are_named(model: Path, run: Any) -> None:
    shards = sorted(path.name for path in model.iterdir() if path.suffix == ".safetensors")
    text = lines(model).splitlines()
    text = [line if shards[0] not in line else "0" * 64 + line[64:] for line in text if shards[1] not in line]
    Path("SUMS").write_text("\n".join(text))
    result = run("check", "sharded", "--sha256", "SUMS", "-f", "json", "--no-evidence")
    wrong, missing = found(result)
    assert result.code == 1
    assert shards[0] in wrong
    assert "0" * 64 in wrong
    assert shards[1] in missing
    assert "no digest of it" in missing


def test_two_files_of_one_name_elsewhere_stand_for_neither(model: Path, run: Any) -> None:
    Path("SUMS").write_text("".join(lines(model, f"{{digest}}  {place}/{{name}}") for place in ("x", "y")))
    result = run("check", "sharded", "--sha256", "SUMS", "-f", "json", "--no-evidence")
    assert (result.code, all("no digest of it" in message for message in found(result))) == (1, True)


def test_a_long_manifest_is_read_once(model: Path) -> None:
    """As many files as lines are looked up in no more steps than there are parts of their paths."""
    Path("SUMS").write_text("".join(f"{number:064x}  d{number}/f{number}\n" for number in range(4_000)))
    said = digests.read(Path("SUMS"))
    for number in range(4_000):
        assert said.of(f"d{number}/f{number}") == f"{number:064x}"


@pytest.mark.parametrize(
    "text",
    [
        "0" * 40 + "  a\n",
        "0" * 128 + "  a\n",
        "0" * 64 + " a\n",
        "0" * 64 + "\n",
        "g" * 64 + "  a\n",
        "SHA1 (a) = " + "0" * 40,
        "MD5 (a) = " + "0" * 32,
        f"{'0' * 64}  ./a\n{'1' * 64}  a\n",
        f"{'0' * 64}  b//a\n{'1' * 64}  b/./a\n",
        "\u200b" + "0" * 64 + "  a\n",
        "\uff10" * 64 + "  a\n",
    ],
)
def test_what_is_nearly_a_manifest(text: str, model: Path, run: Any) -> None:
    for data in (text.encode(), text.encode("utf-16")[:-1]):
        Path("SUMS").write_bytes(data)
        result = run("check", "sharded", "--sha256", "SUMS")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("text", ["", "hello\n", "0" * 63 + "  a\n", f"{'0' * 64}  a\n{'1' * 64}  a\n", "\0" * 100])
def test_what_is_no_manifest(text: str, model: Path, run: Any) -> None:
    Path("SUMS").write_text(text)
    result = run("check", "sharded", "--sha256", "SUMS")
    assert (result.code, result.out) == (2, "")
    assert "SUMS" in result.err
    assert result.err.count("\n") == 1


def test_a_manifest_without_end_or_that_is_not_there(model: Path, run: Any) -> None:
    os.mkfifo("pipe")
    for name in ("/dev/zero", "nothing", ".", "pipe"):
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
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
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
    result = run("check", "sharded", "--hub", "some/model", "-f", "json", "--no-evidence")
    assert (result.code, found(result)) == (0, [])
    for one in siblings[:-1]:
        one["lfs"]["sha256"] = "f" * 64  # type: ignore[index]
    hub["/api/models/some/model/revision/v1%2F2?blobs=true"] = json.dumps({"siblings": siblings}).encode()
    result = run("check", "sharded", "--hub", "some/model@v1/2", "-f", "json", "--no-evidence")
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
        b'{"siblings": [{"rfilename": "a", "lfs": {"sha256": "%s"}}]}' % (b"0" * 40),
        b'{"siblings": [{"rfilename": "a", "lfs": {"sha256": "%s"}}]}' % (b"z" * 64),
        b'{"siblings": [{"rfilename": "a", "lfs": {"sha256": 5}}]}',
        b'{"siblings": [%s, %s]}'
        % tuple(b'{"rfilename": "a", "lfs": {"sha256": "%s"}}' % (digit * 64) for digit in (b"0", b"1")),
        b'{"siblings": [' + b"{}," * 9999 + b"{}]}",
        b"\xff\xfe{\x00}\x00",
        b'{"siblings": [{"rfilename": "\\u001b[31m", "lfs": {"sha256": "x"}}]}',
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
