"""Several requests at once, each byte once, in bounded room; and nothing is left behind."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import qkvinspect
from qkvinspect.formats import open_checkpoint
from qkvinspect.sources import fetching, remote, spool
from qkvinspect.sources.locate import Reach, RemoteFile
from qkvinspect.sources.locate import remote as connect
from tests.remote import files
from tests.remote.server import Asked, Handler, Web


def opened(web: Web, name: str, **options: Any) -> RemoteFile:
    file = connect(f"{web.url}/{name}", Reach(**options))
    assert isinstance(file, RemoteFile)
    return file


@pytest.fixture
def noise(tmp_path: Path) -> bytes:
    data = os.urandom(3_000_000)
    (tmp_path / "noise").write_bytes(data)
    return data


def test_shards_are_asked_for_at_once(web: Web, tmp_path: Path) -> None:
    names = [f"model-{number}.safetensors" for number in range(4)]
    for number, name in enumerate(names):
        save_file({f"x.{number}": torch.zeros(3)}, tmp_path / name)
    index = {f"x.{number}": name for number, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    together = threading.Barrier(4, timeout=60)

    def meet(handler: Handler, asked: Asked) -> bool:
        if asked.name in names:
            together.wait()
        return False

    web.fault = meet
    with qkvinspect.open(f"{web.url}/model.safetensors.index.json") as checkpoint:
        assert len(checkpoint.tensors) == 4


def test_announced_ranges_are_asked_for_at_once_and_only_once(web: Web, noise: bytes) -> None:
    file = opened(web, "noise")
    assert file.size == len(noise)
    together = threading.Barrier(3, timeout=60)

    def meet(handler: Handler, asked: Asked) -> bool:
        together.wait()
        return False

    web.fault = meet
    ranges = [(500_000, 600_000), (1_500_000, 1_600_000), (2_500_000, 2_600_000)]
    file.expect(ranges)
    for start, stop in reversed(ranges):
        assert file.read(start + 5, stop - start - 10) == noise[start + 5 : stop - 5]
    file.expect(ranges)
    assert [asked.range for asked in web.asked[1:]] != []
    assert sorted(asked.range or () for asked in web.asked[1:]) == ranges
    file.close()


def test_reads_of_all_kinds(web: Web, noise: bytes) -> None:
    file = opened(web, "noise")
    generator = torch.Generator().manual_seed(0)
    for step in range(200):
        start, stop = sorted(torch.randint(0, len(noise) + 1, (2,), generator=generator).tolist())
        if step % 3 == 0:
            file.expect([(start, stop)])
        stop = min(stop, start + 100_000)
        assert file.read(start, stop - start) == noise[start:stop]
    assert file.read(len(noise), 0) == b""
    with pytest.raises(qkvinspect.CheckpointError, match="shorter than its own header says"):
        file.read(len(noise) - 1, 2)
    ranges = sorted(asked.range or (0, 0) for asked in web.asked)
    assert sum(stop - start for start, stop in ranges) <= len(noise)
    file.close()
    with pytest.raises(qkvinspect.CheckpointError, match="is closed"):
        file.read(0, 1)


@pytest.mark.gate
def test_readers_in_several_threads(web: Web, noise: bytes) -> None:
    file = opened(web, "noise")
    wrong: list[int] = []

    def read(first: int) -> None:
        for start in range(first, len(noise) - 50_000, 60_000):
            if file.read(start, 50_000) != noise[start : start + 50_000]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(first,)) for first in (0, 7, 30_011, 59_999)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    assert not wrong


def test_what_is_forgotten_is_fetched_again(web: Web, noise: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_LEAST", 400_000)
    monkeypatch.setattr(spool, "_MOST", 400_000)
    file = opened(web, "noise")
    for _ in range(2):
        for start in range(0, len(noise), 100_000):
            assert file.read(start, 100_000) == noise[start : start + 100_000]
    assert web.sent > len(noise) * 3 / 2
    file.close()


def test_nobody_runs_far_ahead_of_the_reader(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_AHEAD", 8 << 20)
    (tmp_path / "large").write_bytes(b"")
    os.truncate(tmp_path / "large", 100 << 20)
    file = opened(web, "large")
    file.expect([(0, 100 << 20)])
    assert not any(file.read(1 << 20, 1 << 20))
    until = time.monotonic() + 60
    while web.sent < 12 << 20 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    assert 12 << 20 <= web.sent <= 24 << 20
    assert not any(file.read(99 << 20, 1 << 20))
    file.close()


@pytest.mark.gate
def test_nothing_is_left_behind(run, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    torch.save(files.small(), tmp_path / "model.pt")
    descriptors = len(os.listdir("/dev/fd"))
    for options in ((), ("--download",)):
        assert run("show", f"{web.url}/model.pt", *options).code == 0
    assert list(place.iterdir()) == []
    until = time.monotonic() + 60
    while time.monotonic() < until:
        gc.collect()  # what could not be fetched lies in a cycle with the error that says so
        names = [thread.name for thread in threading.enumerate()]
        if "fetch" not in names and len(os.listdir("/dev/fd")) <= descriptors:
            return
        time.sleep(0.02)
    pytest.fail(f"{names}, {len(os.listdir('/dev/fd'))} descriptors for {descriptors}")


def test_no_room_is_said(run, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(files.small(), tmp_path / "model.pt")

    def full(fd: int, data: bytes, at: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    result = run("show", f"{web.url}/model.pt")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "TMPDIR" in result.err
    assert "No space left on device" in result.err


def test_a_download_says_how_far_it_is(web: Web, tmp_path: Path) -> None:
    torch.save(files.small(), tmp_path / "model.pt")
    size = (tmp_path / "model.pt").stat().st_size
    told: list[tuple[int, int]] = []
    with open_checkpoint(f"{web.url}/model.pt", download=True, progress=lambda *now: told.append(now)):
        pass
    assert told == sorted(told)
    assert told[-1] == (size, size)


@pytest.mark.parametrize("redirected", [False, True])
def test_connections_are_kept(web: Web, noise: bytes, redirected: bool) -> None:
    def elsewhere(handler: Handler, asked: Asked) -> bool:
        if asked.name == "noise":
            handler.refuse(302, Location="/there")
            return True
        asked.name = "noise"
        return False

    web.fault = elsewhere if redirected else None
    file = opened(web, "noise")
    for start in range(200_000, 2_200_000, 100_000):
        assert file.read(start, 100_000) == noise[start : start + 100_000]
    file.close()
    assert len(web.asked) == 21 * (1 + redirected)
    assert web.connections <= 8


def test_the_first_request_is_small(web: Web, noise: bytes) -> None:
    file = opened(web, "noise")
    assert file.size == len(noise)
    assert [asked.range for asked in web.asked] == [(0, remote._HEAD)]
    file.close()
