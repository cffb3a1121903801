"""Local files: exact reads, errors instead of short ones, and no way out of a checkpoint's folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkvinspect.cli import main
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.export import files
from qkvinspect.formats import open_checkpoint
from qkvinspect.sources import LocalFile, local

SAMPLE = Path(__file__).parents[2] / "sample_checkpoints" / "transformer.pt"
DATA = bytes(range(256)) * 4


@pytest.fixture
def file(tmp_path: Path) -> Iterator[LocalFile]:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    opened = LocalFile(path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFile]:
    path = tmp_path_factory.mktemp("local") / "data.bin"
    path.write_bytes(DATA)
    opened = LocalFile(path)
    yield opened
    opened.close()


@given(offset=st.integers(-5, 1100), length=st.integers(-5, 1100), at_once=st.sampled_from([1, 7, 1 << 30]))
@settings(max_examples=300, deadline=None)
@pytest.mark.gate
def test_reads_exactly_or_not_at_all(shared: LocalFile, offset: int, length: int, at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_MAX_READ", at_once)
        if offset >= 0 and length >= 0 and offset + length <= len(DATA):
            assert shared.read(offset, length) == DATA[offset : offset + length]
        else:
            with pytest.raises(CheckpointError, match="shorter than its own header says"):
                shared.read(offset, length)


def test_name_and_size(file: LocalFile, tmp_path: Path) -> None:
    assert file.name == str(tmp_path / "data.bin")
    assert file.size == len(DATA)


def test_a_file_that_shrinks(file: LocalFile) -> None:
    assert file.read(1000, 24) == DATA[1000:]
    os.truncate(file.name, 1010)
    with pytest.raises(CheckpointError, match="became shorter while it was read") as caught:
        file.read(1000, 24)
    assert "found the end at 1010" in str(caught.value)
    with pytest.raises(CheckpointError, match="changed or replaced while it was read"):
        file.read(1000, 10)


def test_a_file_that_grows(file: LocalFile) -> None:
    with Path(file.name).open("ab") as more:
        more.write(b"more")
    assert file.size == len(DATA)
    with pytest.raises(CheckpointError, match=r"changed .*found one of 1028 bytes, written to since") as caught:
        file.read(0, 4)
    assert caught.value.code is Code.FILE_CHANGED


def test_a_file_that_is_written_to(file: LocalFile) -> None:
    Path(file.name).write_bytes(DATA[::-1])
    with pytest.raises(CheckpointError) as caught:
        file.read(0, 4)
    assert caught.value.code is Code.FILE_CHANGED


def test_a_file_that_is_replaced(file: LocalFile, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(DATA)
    (tmp_path / "new").replace(file.name)
    assert file.read(0, len(DATA)) == DATA  # of what was opened
    with pytest.raises(CheckpointError, match="another in its place") as caught:
        file.check()
    assert caught.value.code is Code.FILE_CHANGED


def test_a_file_that_is_gone(file: LocalFile) -> None:
    Path(file.name).unlink()
    with pytest.raises(CheckpointError, match="found none: No such file"):
        file.check()


def test_a_file_beside_it_that_is_replaced(file: LocalFile, tmp_path: Path) -> None:
    (tmp_path / "beside").write_bytes(DATA)
    (tmp_path / "new").write_bytes(DATA)
    other = file.relative("beside")
    assert other.read(0, 4) == DATA[:4]
    (tmp_path / "new").replace(other.name)
    with pytest.raises(CheckpointError, match="another in its place"):
        other.read(0, 4)


def test_a_checkpoint_that_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    path, other = tmp_path / "model.pt", tmp_path / "other.pt"
    for place in (path, other):
        shutil.copy(SAMPLE, place)

    def read() -> None:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.tensors
            other.replace(path)

    with pytest.raises(CheckpointError) as caught:
        read()
    assert caught.value.code is Code.FILE_CHANGED


def test_a_command_on_a_file_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = tmp_path / "model.pt", tmp_path / "qkv.safetensors"
    shutil.copy(SAMPLE, path)

    def replaced(*arguments: Any) -> Any:
        shutil.copy(path, tmp_path / "new")
        (tmp_path / "new").replace(path)
        return write(*arguments)

    write = files.write_safetensors
    monkeypatch.setattr(files, "write_safetensors", replaced)
    assert main(["export", "--split", str(path), "-o", str(target)]) == 2
    assert "[QKV-F014]" in capsys.readouterr().err
    assert not target.exists()


def test_closing_twice_is_fine_and_reading_after_it_an_error(file: LocalFile) -> None:
    file.close()
    file.close()
    with pytest.raises(CheckpointError):
        file.read(0, 1)


@pytest.mark.parametrize("name", ["beside.bin", "below/deep/x.bin", "./beside.bin", "below/./deep/x.bin"])
def test_relative(name: str, file: LocalFile, tmp_path: Path) -> None:
    (tmp_path / "below" / "deep").mkdir(parents=True)
    (tmp_path / "beside.bin").write_bytes(b"here")
    (tmp_path / "below" / "deep" / "x.bin").write_bytes(b"here")
    other = file.relative(name)
    assert other.read(0, 4) == b"here"
    other.close()


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/../../x", "a/..", "/x", "//x", "/", "a\\b", "..\\x", "C:\\x", "a\0b", "../data.bin"]
)
def test_names_that_leave_the_folder(name: str, file: LocalFile) -> None:
    with pytest.raises(CheckpointError, match="outside its own folder") as caught:
        file.relative(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["missing", ".", "below"])
def test_names_of_what_is_no_file(name: str, file: LocalFile, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    with pytest.raises(CheckpointError):
        file.relative(name)


def test_siblings_are_the_regular_files(file: LocalFile, tmp_path: Path) -> None:
    (tmp_path / "z.json").write_text("{}")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("a.json")
    assert file.siblings() == ("a.json", "data.bin", "link", "z.json")


def test_siblings_of_a_folder_that_is_gone(file: LocalFile, tmp_path: Path) -> None:
    Path(file.name).unlink()
    tmp_path.rename(tmp_path.with_name("moved-" + tmp_path.name))
    assert file.siblings() == ()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything: be someone else for a moment."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.pt"
    path.write_bytes(b"x")
    path.chmod(0)
    with as_nobody(), pytest.raises(CheckpointError, match="Permission denied") as caught:
        LocalFile(path)
    assert "permissions" in (caught.value.hint or "")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_folder_that_may_not_be_entered(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"x")
    folder.chmod(0)
    try:
        with as_nobody(), pytest.raises(CheckpointError, match="Permission denied"):
            open_checkpoint(folder / "model.pt" if what == "file" else folder)
    finally:
        folder.chmod(0o700)


def test_nothing_is_left_open_when_opening_fails(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("counts what /proc shows")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "junk").write_bytes(b"junk")
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path / "pipe", tmp_path / "junk", tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(CheckpointError):
            open_checkpoint(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_files_beside_it_are_not_kept_open(file: LocalFile, tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("counts what /proc shows")
    (tmp_path / "beside").write_bytes(DATA)
    before = len(os.listdir("/proc/self/fd"))
    others = [file.relative("beside") for _ in range(500)]
    assert [other.read(4, 2) for other in others] == [DATA[4:6]] * 500
    assert len(os.listdir("/proc/self/fd")) == before
