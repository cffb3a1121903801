"""Rows copied from file to file: whatever the system can do, the bytes are those of the rows."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qkvinspect.checkpoint import Orientation, Region, TensorInfo
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import CheckpointError
from qkvinspect.export.pieces import OutputTensor, RowRun, copy, spans
from qkvinspect.formats import open_checkpoint
from qkvinspect.sources import LocalFile, Window
from qkvinspect.weights import copying
from qkvinspect.weights.strided import strided_matrix
from qkvinspect.weights.weight import plain

real = os.copy_file_range


def refuse(*_: object) -> int:
    raise OSError(errno.EXDEV, "other file system")


def in_parts(source: int, target: int, count: int, offset: int) -> int:
    return real(source, target, min(count, 1000), offset)


def once_only() -> Callable[[int, int, int, int], int]:
    calls: list[int] = []

    def copy(source: int, target: int, count: int, offset: int) -> int:
        calls.append(count)
        return real(source, target, 3000, offset) if len(calls) == 1 else 0

    return copy


@pytest.fixture(params=["real", "refuse", "in parts", "stops", "missing"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the system makes of a request to copy."""
    monkeypatch.setattr(copying, "_SMALL", 64)
    monkeypatch.setattr(copying, "_STEP", 8192)
    monkeypatch.setattr(copying, "_PAGE", 1)  # so that the system is asked wherever they lie
    match request.param:
        case "missing":
            monkeypatch.delattr(os, "copy_file_range")
        case "real":
            pass
        case other:
            stand_in = {"refuse": refuse, "in parts": in_parts, "stops": once_only()}[other]
            monkeypatch.setattr(os, "copy_file_range", stand_in)
    return request.param


def copied(info: TensorInfo, rows: tuple[range, ...], target: Path, orientation: Orientation = "out_in") -> bytes:
    told: list[int] = []
    with target.open("wb") as file:
        file.write(b"head")
        runs = tuple(RowRun(run, plain(info), orientation) for run in rows)
        copy(
            spans(OutputTensor("w", (sum(map(len, rows)), strided_matrix(info, orientation).cols), info.dtype, runs)),
            file,
            told.append,
        )
        file.write(b"tail")
    data = target.read_bytes()
    assert (data[:4], data[-4:]) == (b"head", b"tail")
    assert sum(told) == len(data) - 8
    return data[4:-4]


@pytest.mark.parametrize("orientation", ["out_in", "in_out"])
def test_rows_of_a_file(system: str, orientation: Orientation, tmp_path: Path) -> None:
    tensor = torch.randn(90, 120)
    torch.save({"w": tensor}, tmp_path / "w.pt")
    expected = tensor if orientation == "out_in" else tensor.T
    rows = (range(5, 80), range(3), range(1, 90, 4), range(7, 7))
    picked = torch.cat([expected[run.start : run.stop : run.step] for run in rows])
    with open_checkpoint(tmp_path / "w.pt") as checkpoint:
        data = copied(checkpoint.tensors["w"], rows, tmp_path / "out", orientation)
    assert data == picked.contiguous().numpy().tobytes()


@pytest.mark.parametrize("kept", [True, False])
def test_parts_and_windows_of_a_file(system: str, kept: bool, tmp_path: Path) -> None:
    tensor = torch.randn(40, 50)
    (tmp_path / "raw").write_bytes(b"x" * 10 + tensor.numpy().tobytes() + b"y" * 10)
    source = LocalFile(tmp_path / "raw", kept=kept)
    window = Region(Window(source, 7, 8009), 3, 8000)
    part = Region(source, 0, source.size).part(10, 8000)
    example = {"name": "w", "shape": (40, 50), "strides": (50, 1)}
    for region in (window, part):
        info = TensorInfo(dtype=DTYPES["float32"], region=region, **example)
        assert copied(info, (range(2, 39),), tmp_path / "out") == tensor[2:39].numpy().tobytes()
    source.close()


def test_a_file_that_changes_is_an_error(system: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.randn(90, 120)}, path)
    checkpoint = open_checkpoint(path)
    info = checkpoint.tensors["w"]
    info.region.check()
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(CheckpointError):
        copied(info, (range(90),), tmp_path / "out")
    checkpoint.close()


@pytest.mark.skipif(not hasattr(os, "major"), reason="devices have no numbers here")
@pytest.mark.parametrize(
    ("start", "device", "asked"), [(0, 8, True), (8192, 8, True), (10, 8, False), (4095, 8, False), (10, 0, True)]
)
def test_the_system_copies_what_lies_alike_within_a_page(
    start: int, device: int, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all of what is on no disk of this machine: a server may copy it."""
    calls: list[int] = []

    def noted(source: int, target: int, count: int, offset: int) -> int:
        calls.append(count)
        return real(source, target, count, offset)

    monkeypatch.setattr(os, "copy_file_range", noted)
    monkeypatch.setattr(os, "major", lambda _: device)
    data = os.urandom(300_000)
    (tmp_path / "raw").write_bytes(data)
    source = LocalFile(tmp_path / "raw")
    with (tmp_path / "out").open("w+b") as file:
        copying.copy_range(Region(source, 0, len(data)), start, 200_000, file, lambda _: None)
    assert (tmp_path / "out").read_bytes() == data[start : start + 200_000]
    assert bool(calls) is asked
    source.close()
