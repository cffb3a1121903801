"""What a file is written to that is no new name: a link, a pipe, a device, a folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from qkvinspect.atomic import new_file
from qkvinspect.errors import QkvInspectError, UsageError
from tests.conftest import Run

FORCE = pytest.mark.parametrize("force", [False, True])


def write(target: Path, *, force: bool) -> None:
    with new_file(target, force=force) as file:
        file.write(b"new")


def node(path: Path, kind: int, major: int, minor: int) -> Path:
    """A device of its own in a folder of ours; there is no such disk."""
    try:
        os.mknod(path, 0o600 | kind, os.makedev(major, minor))
        if kind == stat.S_IFCHR:
            path.open("rb").close()
    except PermissionError:
        pytest.skip("only root makes devices, and not everywhere")
    return path


def reader(pipe: Path) -> BinaryIO:
    """Its other end, which waits for nobody: a pipe holds as much as is written here."""
    return os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb")


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    target, near, far = tmp_path / "elsewhere" / "target", tmp_path / "near", tmp_path / "far"
    target.parent.mkdir()
    target.write_bytes(b"old")
    near.symlink_to("elsewhere/target")
    far.symlink_to("near")
    with pytest.raises(UsageError, match="exists already"):
        write(far, force=False)
    assert target.read_bytes() == b"old"
    write(far, force=True)
    assert (target.read_bytes(), far.is_symlink(), near.is_symlink()) == (b"new", True, True)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "far", "near"]
    assert os.listdir(target.parent) == ["target"]


@FORCE
def test_a_link_to_nothing_yet_makes_it(tmp_path: Path, force: bool) -> None:
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link", force=force)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_link_to_itself_is_not_free(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(UsageError, match="exists already"):
        write(tmp_path / "link", force=False)
    assert os.listdir(tmp_path) == ["link"]


def test_what_fails_leaves_the_target_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "link", force=True):
        raise ZeroDivisionError
    assert (tmp_path / "target").read_bytes() == b"old"


@FORCE
@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_pipe_is_written_to(tmp_path: Path, force: bool, name: str) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("pipe")
    with reader(pipe) as read:
        write(tmp_path / name, force=force)
        assert read.read() == b"new"
    assert (pipe.is_fifo(), link.is_symlink()) == (True, True)


@FORCE
def test_a_device_is_written_to(tmp_path: Path, force: bool) -> None:
    device = node(tmp_path / "null", stat.S_IFCHR, 1, 3)
    write(device, force=force)
    assert device.is_char_device()
    assert os.listdir(tmp_path) == ["null"]


def test_a_device_that_takes_nothing(tmp_path: Path) -> None:
    device = node(tmp_path / "full", stat.S_IFCHR, 1, 7)
    with pytest.raises(QkvInspectError, match="could not be written: No space left"):
        write(device, force=True)
    assert device.is_char_device()


@FORCE
def test_a_block_device_and_a_folder_are_refused(tmp_path: Path, force: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    for name in ("folder", "link"):
        with pytest.raises(UsageError, match="is a folder"):
            write(tmp_path / name, force=force)
    with pytest.raises(UsageError, match="is a device"):
        write(node(tmp_path / "disk", stat.S_IFBLK, 240, 99), force=force)
    assert (tmp_path / "disk").is_block_device()


@FORCE
def test_a_link_to_stdout(tmp_path: Path, samples: Path, force: bool) -> None:
    """As /dev/stdout is one."""
    (tmp_path / "out").symlink_to("/proc/self/fd/1")
    line = ["show", samples / "transformer.pt", "--no-norms", *(["--force"] if force else [])]
    command = [sys.executable, "-m", "qkvinspect", *map(str, line)]
    printed, written = (
        subprocess.run([*command, *more], capture_output=True, check=True).stdout
        for more in ([], ["-o", str(tmp_path / "out")])
    )
    assert written == printed != b""
    assert os.listdir(tmp_path) == ["out"]


def test_what_no_command_replaces(run: Run, samples: Path, tmp_path: Path) -> None:
    """A link under a harmless name that leads to a part of a model; what a scan is kept in."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "report.txt").symlink_to("config.json")
    result = run("show", samples / "transformer.pt", "-o", tmp_path / "report.txt", "--force")
    assert (result.code, (tmp_path / "config.json").read_text()) == (2, "{}")
    assert "is a part of a model" in result.err
    os.mkfifo(tmp_path / "rows.jsonl")
    result = run("scan", samples / "transformer.pt", "-o", tmp_path / "rows.jsonl", "--force")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "rows.jsonl: is a pipe" in result.err


def test_a_picture_flows_through_a_pipe(run: Run, samples: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "map.pdf")
    line = ("show", samples / "trained.safetensors", "--heads", "4", "--heat", "q_norm", "--no-evidence")
    with reader(tmp_path / "map.pdf") as read:
        assert run(*line, "--plot", tmp_path / "map.pdf").code == 0
        assert read.read().startswith(b"%PDF")


def test_a_reader_of_a_pipe_that_has_enough(tmp_path: Path) -> None:
    """It is nobody's fault, as of stdout, and the exit code is the same."""
    os.mkfifo(tmp_path / "pipe")
    read = reader(tmp_path / "pipe")
    with pytest.raises(BrokenPipeError), new_file(tmp_path / "pipe", force=False) as file, read:
        file.write(b"new")
