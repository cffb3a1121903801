"""Whatever stops a rewriting, the target is complete or not there."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qkvinspect import atomic
from tests.some import crossed

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("kill", Path(__file__).parent / "kill.py")
assert spec
assert spec.loader
kill = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kill)

TARGETS = {
    "safetensors": ("out.safetensors",),
    "torch": ("out.pt",),
    "shards": ("out", "--max-shard-size", "1kB"),
    "forced": ("old.pt", "--force"),
}


class Failing:
    """A file whose nth write, or flush, fails."""

    def __init__(self, file: Any, left: list[int], number: int) -> None:
        self._file, self._left, self._number = file, left, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        self._count()
        return self._file.write(data)

    def flush(self) -> None:
        self._count()
        self._file.flush()

    def _count(self) -> None:
        self._left[0] -= 1
        if self._left[0] < 0:
            raise OSError(self._number, os.strerror(self._number))


@crossed(kind=[*TARGETS], failure=[(errno.ENOSPC, True), (errno.EIO, False)])
@pytest.mark.gate
def test_every_write_may_fail(
    run, tmp_path_factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, failure: tuple[int, bool]
) -> None:
    """The first, the second ... until one export has no failure left; closing, linking and syncing are calls too."""
    number, nameless = failure
    source = tmp_path_factory.mktemp("source") / "model.pt"
    shapes = {"in_proj_weight": (12, 4), "in_proj_bias": (12,), "out_proj.weight": (4, 4), "out_proj.bias": (4,)}
    torch.save({f"l.self_attn.{name}": torch.randn(shape) for name, shape in shapes.items()}, source)
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE")
    left = [0]
    opening = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *args: Failing(opening(*args), left, number))
    monkeypatch.setattr(os, "fsync", _counted(lambda _: None, left, number))
    for call in ("link", "replace"):
        monkeypatch.setattr(os, call, _counted(getattr(os, call), left, number))
    name, *options = TARGETS[kind]
    (tmp_path / "old.pt").write_text("precious")
    for failing in range(10_000):
        left[0] = failing
        line = ("export", "--split", "--all", source, "--no-evidence", "-o", tmp_path / name)
        result = run(*line, *options)
        if result.code == 0:
            break
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert os.strerror(number) in result.err
        assert os.listdir(tmp_path) == ["old.pt"]
        assert (tmp_path / "old.pt").read_text() == "precious"
    assert failing > 10
    assert run("show", tmp_path / name, "--no-norms").code == 0


def _counted(call: Any, left: list[int], number: int) -> Any:
    def counted(*args: Any, **keywords: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        return call(*args, **keywords)

    return counted


LIMITS = (0, 1, 4096, 15_000)
# Python itself puts half a module into its cache where a file may not grow, and does not notice.
GROWS = f"""
import os, resource, signal, sys
from qkvinspect.cli import run
sys.dont_write_bytecode = True
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in {LIMITS}:
    if child := os.fork():
        print(limit, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    run()
"""


@pytest.mark.gate
def test_a_file_that_may_not_grow(samples: Path, tmp_path: Path) -> None:
    """The system itself refuses the write."""
    command = [sys.executable, "-c", GROWS, "export", "--split", "--all", str(samples / "transformer.pt"), "-o"]
    result = subprocess.run([*command, str(tmp_path / "out.pt")], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "".join(f"{limit} 2\n" for limit in LIMITS)
    assert result.stderr.count("File too large") == result.stderr.count("\n") == len(LIMITS)
    assert not os.listdir(tmp_path)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kill.source(tmp_path_factory.mktemp("killed"), layers=2)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *(pytest.param(signal.SIGKILL, kind, marks=pytest.mark.gate) for kind in ("nameless", "named", "shards")),
        pytest.param(signal.SIGTERM, "nameless", marks=pytest.mark.gate),
        (signal.SIGINT, "named"),
        pytest.param(signal.SIGHUP, "shards", marks=pytest.mark.gate),
    ],
)
def test_a_signal_at_any_moment(path: Path, number: int, kind: str) -> None:
    """Those that can be caught are caught alike. ``python tests/export/kill.py`` does this 300 times."""
    code = kill.NAMED if kind == "named" else kill.NAMELESS
    target, options = ("out", ("--max-shard-size", "2MB")) if kind == "shards" else ("out.safetensors", ())
    kill.attack(path, code, target, options, number, 1)


def test_no_room(samples: Path, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        f_bavail, f_frsize = 3, 4096

    monkeypatch.setattr(os, "statvfs", lambda _: Disk)
    result = run("export", "--split", "--all", samples / "transformer.pt", "-o", tmp_path / "out.pt")
    assert (result.code, os.listdir(tmp_path)) == (2, [])
    assert "no room" in result.err
    assert "12288 bytes free" in result.err


def test_a_file_that_reads_back_otherwise_is_not_kept(
    samples: Path, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that loses a bit."""
    from qkvinspect.export import files

    honest = files.write_safetensors

    def lossy(file: Any, *rest: Any) -> None:
        honest(file, *rest)
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))

    monkeypatch.setattr(files, "write_safetensors", lossy)
    arguments = ("export", "--split", "--all", samples / "transformer.pt", "-o", tmp_path / "out.safetensors")
    result = run(*arguments, "--verify")
    assert (result.code, os.listdir(tmp_path)) == (2, [])
    assert "it is not what was written" in result.err
    assert run(*arguments).code == 0


def test_what_becomes_of_the_source_once_the_target_has_its_name(
    samples: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole, and said to be: to say that nothing was written beside a file that is there helps nobody."""
    source, out = tmp_path / "model.pt", tmp_path / "out.safetensors"
    source.write_bytes((samples / "transformer.pt").read_bytes())
    named = atomic._give_name

    def touched(*args: Any) -> None:
        named(*args)
        os.utime(source, (1, 1))

    monkeypatch.setattr(atomic, "_give_name", touched)
    result = run("export", "--split", source, "-o", out)
    assert (result.code, out.exists()) == (0, True)
    out.unlink()
    real = atomic._flowing
    monkeypatch.setattr(atomic, "_flowing", lambda number: (os.utime(source, (2, 2)), real(number))[1])
    result = run("export", "--split", source, "-o", out)
    assert (result.code, out.exists()) == (2, False)
    assert "changed" in result.err
