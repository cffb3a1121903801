"""Reads into memory that each thread keeps: the same bytes and the same errors as of other reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import pytest

from qkvinspect.checkpoint import ByteSource, Region
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.sources import LocalFile, Window, local
from qkvinspect.sources.briefly import AT_ONCE, is_filling, read_briefly, read_region_briefly
from tests.batches import batched

DATA = Random(0).randbytes(AT_ONCE + 1000)


@pytest.fixture(params=["at once", "in pieces", "without preadv"])
def file(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFile]:
    (tmp_path / "data.bin").write_bytes(DATA)
    if request.param == "in pieces":
        real = os.preadv
        monkeypatch.setattr(os, "preadv", lambda fd, rooms, offset: real(fd, [rooms[0][:1000]], offset))
    elif request.param == "without preadv":
        monkeypatch.delattr(os, "preadv")
    opened = LocalFile(tmp_path / "data.bin")
    yield opened
    opened.close()


@batched("offset", [0, 1, 63, 64, 65, 999])
@pytest.mark.parametrize("length", [0, 1, 64, 4097, AT_ONCE])
def test_it_reads_what_is_there(file: LocalFile, offset: int, length: int) -> None:
    assert bytes(read_briefly(file, offset, length)) == DATA[offset : offset + length]


def test_memory_is_used_again(file: LocalFile) -> None:
    first = read_briefly(file, 0, 100)
    second = read_briefly(file, 64, 100)
    assert bytes(second) == DATA[64:164] == bytes(first)


def test_each_thread_has_memory_of_its_own(file: LocalFile) -> None:
    mine = read_briefly(file, 0, 100)
    thread = Thread(target=read_briefly, args=(file, 64, 100))
    thread.start()
    thread.join()
    assert bytes(mine) == DATA[:100]


def test_more_than_is_kept_is_read_as_usual(file: LocalFile) -> None:
    assert read_briefly(file, 0, AT_ONCE + 1) == DATA[: AT_ONCE + 1]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (len(DATA), 1), (len(DATA) - 1, 2)])
def test_it_reads_nothing_else(file: LocalFile, offset: int, length: int) -> None:
    with pytest.raises(CheckpointError, match="shorter than its own header says"):
        read_briefly(file, offset, length)


def test_a_file_that_shrinks(file: LocalFile) -> None:
    os.truncate(file.name, 1010)
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        read_briefly(file, 1000, 24)


def test_a_file_that_is_written_to(file: LocalFile) -> None:
    Path(file.name).write_bytes(DATA[::-1])
    with pytest.raises(CheckpointError) as caught:
        read_briefly(file, 0, 4)
    assert caught.value.code is Code.FILE_CHANGED


def test_a_disk_that_fails(file: LocalFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(local, "_fill", fails)
    with pytest.raises(CheckpointError, match="cannot be read: Input/output error"):
        read_briefly(file, 0, 4)


def test_a_file_that_is_closed(file: LocalFile) -> None:
    file.close()
    with pytest.raises(CheckpointError, match="is closed"):
        read_briefly(file, 0, 4)


def test_part_of_a_file_reads_as_usual(file: LocalFile) -> None:
    window: ByteSource = Window(file, 100, 200)
    assert not is_filling(window)
    assert read_briefly(window, 5, 10) == DATA[105:115]
    assert bytes(read_region_briefly(Region(window, 10, 50), 5, 10)) == DATA[115:125]


def test_a_region_reads_within_itself(file: LocalFile) -> None:
    region = Region(file, 100, 200)
    assert bytes(read_region_briefly(region, 5, 10)) == DATA[105:115]
    assert bytes(read_region_briefly(region.part(20, 50), 5, 10)) == DATA[125:135]


STEP, LENGTH = 3000, 600


@pytest.mark.parametrize(("offset", "step", "length"), [(0, 10, 10), (7, 3000, 2500), (len(DATA) - 301, 100, 1)])
def test_pieces_apart_are_those_that_lie_there(file: LocalFile, offset: int, step: int, length: int) -> None:
    room = bytearray(4 * length)
    file.read_apart(offset, step, length, memoryview(room))
    assert room == b"".join(DATA[offset + n * step :][:length] for n in range(4))


def test_pieces_of_a_file_that_does_not_stay_open(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(DATA)
    room = bytearray(20)
    LocalFile(tmp_path / "data.bin", kept=False).read_apart(5, 100, 10, memoryview(room))
    assert room == DATA[5:15] + DATA[105:115]


@pytest.mark.parametrize("offset", [-1, len(DATA) - STEP - LENGTH + 1])
def test_pieces_that_are_not_all_in_the_file(file: LocalFile, offset: int) -> None:
    with pytest.raises(CheckpointError, match="shorter than its own header says") as caught:
        apart(file, offset)
    assert caught.value.code is Code.FILE_SHORT


def test_pieces_of_a_file_that_shrinks(file: LocalFile) -> None:
    """Within a piece or before it; a file that still has all of them was changed."""
    for end, found in ((STEP + 10, STEP + 10), (LENGTH, STEP)):
        os.truncate(file.name, end)
        with pytest.raises(CheckpointError, match="became shorter while it was read") as caught:
            apart(file)
        assert caught.value.code is Code.FILE_SHRANK
        assert f"found the end at {found}" in str(caught.value)
    os.truncate(file.name, STEP + LENGTH)
    with pytest.raises(CheckpointError) as caught:
        apart(file)
    assert caught.value.code is Code.FILE_CHANGED


def test_pieces_of_a_file_that_is_written_to(file: LocalFile) -> None:
    Path(file.name).write_bytes(DATA[::-1])
    with pytest.raises(CheckpointError, match="written to since") as caught:
        apart(file)
    assert caught.value.code is Code.FILE_CHANGED


@pytest.mark.parametrize("good", [0, 1])
def test_pieces_of_a_disk_that_fails(file: LocalFile, monkeypatch: pytest.MonkeyPatch, good: int) -> None:
    """At the first piece, or at a later one."""
    real, left = local._fill, [None] * good

    def fails(*asked: Any) -> int:
        if not left:
            raise OSError(5, "Input/output error")
        left.pop()
        return real(*asked)

    monkeypatch.setattr(local, "_fill", fails)
    with pytest.raises(CheckpointError, match="cannot be read: Input/output error") as caught:
        apart(file)
    assert caught.value.code is Code.FILE_READ


def test_pieces_of_a_file_that_is_closed(file: LocalFile) -> None:
    file.close()
    with pytest.raises(CheckpointError, match="is closed") as caught:
        apart(file)
    assert caught.value.code is Code.FILE_READ


def apart(file: LocalFile, offset: int = 0) -> None:
    """Read two pieces."""
    file.read_apart(offset, STEP, LENGTH, memoryview(bytearray(2 * LENGTH)))
