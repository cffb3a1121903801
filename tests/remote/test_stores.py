"""Object stores and hubs through fsspec: S3 by a real API server, the hub by a stub that huggingface_hub talks to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Result
from tests.remote import files
from tests.remote.server import Asked, Handler, Web

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

SECRET = "hunter2hunter2"


def shown(run: Any, place: object) -> Any:
    result = run("show", place, "-f", "json", "--no-evidence")
    assert result.code == 0, result.err
    report = result.json()
    del report["checkpoint"]["path"]
    return report


@pytest.fixture
def memory() -> Iterator[Any]:
    import fsspec

    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def test_any_file_system_of_fsspec(run, samples: Path, memory: Any) -> None:
    for path in (samples / "sharded").iterdir():
        memory.pipe_file(f"/models/sharded/{path.name}", path.read_bytes())
    memory.pipe_file("/models/model.pt", (samples / "transformer.pt").read_bytes())
    expected = shown(run, samples / "sharded")
    assert shown(run, "memory://models/sharded") == expected
    assert shown(run, "memory://models/sharded/model.safetensors.index.json") == expected
    assert run("show", "memory://models/model.pt", "-f", "json").json()["checkpoint"]["path"] == (
        "memory://models/model.pt"
    )
    assert run("diff", "memory://models/model.pt", samples / "transformer.pt").code == 0
    memory.pipe_file("/empty/notes.txt", b"none")
    for place, code in (("memory://models/none.pt", "F001"), ("memory://empty", "F021"), ("memory://no", "F001")):
        refused = run("show", place)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert f"QKV-{code}" in refused.err


def test_a_download_from_a_store(run, memory: Any, tmp_path: Path) -> None:
    torch.save(files.small(), tmp_path / "model.pt")
    memory.pipe_file("/model.pt", (tmp_path / "model.pt").read_bytes())
    assert run("diff", "memory://model.pt", tmp_path / "model.pt", "--download").code == 0


def test_what_a_store_says_wrongly(run, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than were asked for, fewer, none, and an error of its own: each is one line."""
    torch.save(files.small(), tmp_path / "model.pt")
    data = (tmp_path / "model.pt").read_bytes()
    memory.pipe_file("/model.pt", data)

    class Odd:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def seek(self, place: int) -> None:
            pass

        def read(self, length: int) -> bytes:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    for answer in (data, b"x", b"", OSError(f"{SECRET} reset"), PermissionError(SECRET), RuntimeError(SECRET)):
        monkeypatch.setattr(type(memory), "open", lambda *args, answer=answer, **options: Odd(answer))
        refused = run("show", "memory://model.pt")
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "[QKV-F0" in refused.err
        assert SECRET not in refused.err


def test_a_file_that_changes_in_a_store(run, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from qkvinspect.inspection import measure

    torch.save(files.small(), tmp_path / "model.pt")
    memory.pipe_file("/model.pt", (tmp_path / "model.pt").read_bytes())
    real = measure.measured

    def meanwhile(*args: Any) -> Any:
        memory.pipe_file("/model.pt", (tmp_path / "model.pt").read_bytes())
        return real(*args)

    monkeypatch.setattr("qkvinspect.inspection.measure.measured", meanwhile)
    refused = run("show", "memory://model.pt")
    assert refused.code == 2
    assert "QKV-F014" in refused.err


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A bucket of a real API server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="models")
        yield client
    server.stop()


LINES = """
import json, os, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[2])))
from qkvinspect.cli import main
from qkvinspect.sources import fetching
fetching._PAUSE /= 100
for line in json.loads(sys.argv[1]):
    if isinstance(line, dict):
        for name, value in line.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        if s3fs := sys.modules.get("s3fs"):
            s3fs.S3FileSystem.clear_instance_cache()  # which know the key that was there before
        continue
    code = main(line)
    print(f"\\x00{code}\\x00", end="", flush=True)
    print("\\x00", end="", file=sys.stderr, flush=True)
"""


def cli(*lines: Sequence[object] | dict[str, str | None], without: Iterable[str] = ()) -> list[Result]:
    """Command lines in a process of their own, where some packages are not installed.

    The event loops of these libraries outlive a test.

    Args:
        lines: or variables of the environment for those that follow; None for one that is not there any more.
    """
    asked = json.dumps([line if isinstance(line, dict) else [str(argument) for argument in line] for line in lines])
    done = subprocess.run(
        [sys.executable, "-c", LINES, asked, json.dumps([*without])],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    *said, rest = done.stdout.split("\0")
    *errors, last = done.stderr.split("\0")
    assert (done.returncode, rest, last) == (0, "", "")
    return [Result(int(code), out, err) for out, code, err in zip(said[::2], said[1::2], errors, strict=True)]


@pytest.mark.gate
def test_s3(run, bucket: Any, samples: Path, tmp_path: Path) -> None:
    for path in (samples / "sharded").iterdir():
        bucket.upload_file(str(path), "models", f"llama/{path.name}")
    # Not as torch made them, which only a file on this machine is looked through for.
    torch.save({name: 1.5 * value for name, value in files.small().items()}, tmp_path / "model.pt")
    bucket.upload_file(str(tmp_path / "model.pt"), "models", "one/model.pt")
    places = {
        "s3://models/llama": samples / "sharded",
        "s3://models/llama/model.safetensors.index.json": samples / "sharded",
        "s3://models/one/model.pt": tmp_path / "model.pt",
    }
    anonymous = {
        "AWS_ACCESS_KEY_ID": None,
        "AWS_SECRET_ACCESS_KEY": None,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": str(tmp_path),
    }
    *results, exported, missing, nonsense, nameless, refused = cli(
        *(("show", place, "-f", "json", "--no-evidence") for place in places),
        ("export", "--split", "--all", "s3://models/one/model.pt", "-o", tmp_path / "x.safetensors", "--verify"),
        ("show", "s3://models/none.pt"),
        ("show", "nonsense://x/y.pt"),
        ("show", "s3://"),
        anonymous,
        ("show", "s3://models/one/model.pt"),
    )
    for (place, here), result in zip(places.items(), results, strict=True):
        assert (result.code, result.err) == (0, "")
        report = result.json()
        assert report["checkpoint"].pop("path").startswith(place)
        assert report == shown(run, here)
    assert (exported.code, exported.err) == (0, "")
    assert SECRET.encode() not in (tmp_path / "x.safetensors").read_bytes()
    assert (missing.code, missing.err.count("\n")) == (2, 1)
    assert "QKV-F001" in missing.err
    assert SECRET not in missing.err
    for result in (nonsense, nameless, refused):
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)


def hub(folder: Path) -> Any:
    """What huggingface_hub asks of the hub, for the one model org/tiny, whose files are those of a folder."""

    def answer(handler: Handler, asked: Asked) -> bool:
        def send(value: object, status: int = 200) -> bool:
            data = json.dumps(value).encode()
            handler.head(status, {"Content-Length": str(len(data)), "Content-Type": "application/json"})
            handler.wfile.write(data)
            return True

        if asked.headers.get("authorization") != f"Bearer {SECRET}":
            return send({"error": "Unauthorized"}, 401)
        model = "api/models/org/tiny"
        entries = [
            {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": f"{path.stat().st_mtime_ns:040x}"}
            for path in sorted(folder.iterdir())
        ]
        if asked.name in (model, f"{model}/revision/main", f"{model}/revision/v1"):
            return send({"id": "org/tiny", "sha": "0" * 40, "siblings": [{"rfilename": e["path"]} for e in entries]})
        if asked.name.startswith(f"{model}/tree/"):
            return send(entries)
        for revision in ("main", "v1"):
            prefix = f"org/tiny/resolve/{revision}/"
            if asked.name.startswith(prefix):
                asked.name = str((folder / asked.name.removeprefix(prefix)).relative_to(handler.web.folder))
                return False
        handler.refuse(404, X_Error_Code="RepoNotFound")
        return True

    return answer


@pytest.mark.gate
def test_the_hub(run, web: Web, samples: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    web.folder = samples
    web.fault = hub(samples / "sharded")
    for name, value in {
        "HF_ENDPOINT": web.url,
        "HF_TOKEN": SECRET,
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        monkeypatch.setenv(name, value)
    expected = shown(run, samples / "sharded")
    revisions = {"main": "hf://org/tiny", "v1": "hf://org/tiny@v1"}
    places = [f"{place}{file}" for place in revisions.values() for file in ("", "/model.safetensors.index.json")]
    none = ("hf://org/none", "hf://org/none@v1", "hf://one-word")
    *results, refused = cli(
        *(("show", place, "-f", "json", "--no-evidence") for place in places),
        *(("show", place) for place in none),
        {"HF_TOKEN": "another"},
        ("show", "hf://org/tiny"),
    )
    for place, result in zip(places, results, strict=False):
        assert (result.code, result.err) == (0, ""), web.asked
        report = result.json()
        assert report["checkpoint"].pop("path").startswith(place)
        assert report == expected
    assert [(one.code, one.out, one.err.count("\n")) for one in results[len(places) :]] == [(2, "", 1)] * len(none)
    fetched = [asked for asked in web.asked if asked.name.endswith(".safetensors")]
    assert all(asked.range for asked in fetched)
    for revision in revisions:
        assert sum(f"/resolve/{revision}/" in asked.target for asked in fetched) >= 2
    assert all("/resolve/main/" in asked.target or "/resolve/v1/" in asked.target for asked in fetched)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "[QKV-F002]" in refused.err  # at once: the token will be no better the next time
    assert "another" not in refused.err + "".join(one.err for one in results)


MISSING = {
    "requests": ("https://h/x.pt", "http"),
    "s3fs": ("s3://b/x.pt", "s3"),
    "gcsfs": ("gs://b/x.pt", "gs"),
    "adlfs": ("az://b/x.pt", "az"),
    "huggingface_hub": ("hf://a/b", "hf"),
}
"""Package: what needs it, and the extra that has it."""


def test_a_missing_package_is_named() -> None:
    results = cli(*(("show", url) for url, _ in MISSING.values()), without=MISSING)
    for (url, extra), result in zip(MISSING.values(), results, strict=True):
        assert (result.code, result.err.count("\n")) == (2, 1), url
        assert f"pip install 'qkvinspect[{extra}]'" in result.err, url


def test_what_is_secret_is_shown_nowhere(run, web: Web, tmp_path: Path) -> None:
    """User, password and signature: sent to the server, and in no output, error or written file.

    All other commands and options are in test_secrets.py.
    """
    torch.save(files.small(), tmp_path / "model.pt")
    (tmp_path / "broken.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:-9])
    base = web.url.replace("http://", f"http://me:{SECRET}@")
    for name in ("model.pt", "broken.pt", "missing.pt"):
        place = f"{base}/{name}?X-Amz-Signature={SECRET}"
        results = [
            run("show", place, "-f", "json"),
            run("explain", place, "--verify", "--no-evidence"),
            run("export", "--split", "--all", place, "-o", tmp_path / f"x-{name}", "--force", "--no-evidence"),
            run("show", place, "--layer", "none"),
        ]
        for result in results:
            assert SECRET not in result.out + result.err
            assert "Traceback" not in result.err
    assert SECRET.encode() not in (tmp_path / "x-model.pt").read_bytes()
    assert all(SECRET in asked.target and asked.headers["authorization"].startswith("Basic") for asked in web.asked)
