"""Processes and Dask find the same; what is killed is done again, once; a scan that is killed goes on."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import pytest

from qkvinspect.scans.engine import dask, processes, scan_all
from qkvinspect.scans.rows import ScanJob, Scanned
from tests.here import scans_here
from tests.scans.cluster import Poison, cluster


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with cluster() as (found, _):
        assert found.startswith("tcp://")
        yield found


@pytest.fixture
def workers() -> AbstractContextManager[None]:
    """Processes of their own: that is what is tested."""
    return nullcontext()


@pytest.fixture
def many(training: Path) -> list[str]:
    """Absolute paths of 41 checkpoints: workers have folders of their own."""
    return sorted(str(path) for path in training.iterdir())


def lines(found: list[Scanned]) -> dict[str, bytes]:
    assert len({one.path for one in found}) == len(found)
    return {one.path: one.rows() for one in found}


def expected(many: list[str]) -> dict[str, bytes]:
    from qkvinspect.scans.rows import scan_one

    return {path: scan_one(path, ScanJob()).rows() for path in many}


@pytest.mark.gate
def test_dask_and_processes_find_the_same(many: list[str], address: str, run) -> None:
    argv = ("scan", "run", "--column", "logit_bound", "-o")
    assert run(*argv, "processes.jsonl").code == 0
    assert run(*argv, "dask.jsonl", "--dask", address).code == 0
    assert Path("dask.jsonl").read_bytes() == Path("processes.jsonl").read_bytes()
    assert Path("dask.jsonl").read_bytes().count(b"\n") == 41 * 3 * (3 * 5 + 4)


@pytest.mark.gate
def test_a_killed_process_loses_nothing(many: list[str]) -> None:
    found: list[Scanned] = []
    killed = 0
    with processes(2) as engine:
        for one in scan_all(many[:20], ScanJob(), engine):
            found.append(one)
            if len(found) == 5:
                victim = multiprocessing.active_children()[0]
                assert victim.pid is not None
                os.kill(victim.pid, signal.SIGKILL)
                killed = victim.pid
    assert killed
    assert lines(found) == expected(many[:20])


@pytest.mark.gate
def test_a_killed_dask_worker_loses_nothing(many: list[str], address: str) -> None:
    from distributed import Client

    found: list[Scanned] = []
    with Client(address, set_as_default=False) as client:
        pids = client.run(os.getpid)
        with dask(address) as engine:
            engine.batch = 2
            for one in scan_all(many, ScanJob(), engine):
                found.append(one)
                if len(found) == 10:
                    os.kill(min(pids.values()), signal.SIGKILL)
        assert set(client.run(os.getpid).values()) != set(pids.values())
    assert lines(found) == expected(many)


@pytest.mark.parametrize("kind", ["processes", "dask"])
@pytest.mark.gate
def test_a_checkpoint_that_kills_its_worker_is_given_up_and_no_other(many: list[str], kind: str, request) -> None:
    paths = [*many[:10], Poison("/run/step=7.pt"), *many[10:20]]
    engine = processes(1) if kind == "processes" else dask(request.getfixturevalue("address"))
    with engine as chosen:
        found = list(scan_all(paths, ScanJob(), chosen))
    bad = [one for one in found if one.error]
    assert [(one.path, one.step) for one in bad] == [("/run/step=7.pt", 7)]
    assert "its worker died" in (bad[0].error or "")
    assert lines([one for one in found if not one.error]) == expected(many[:20])


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


COMMITS_OFTEN = (
    sys.executable,
    "-c",
    "from qkvinspect.scans import journal; journal._PAUSE = 0.05; from qkvinspect.cli import run; run()",
)
"""The command, which brings to disk what it found long before a scan of a few checkpoints is done."""


def done(journal: str) -> int:
    """How many checkpoints a scan that is running has brought to disk."""
    try:
        with closing(sqlite3.connect(f"file:{journal}?mode=ro&immutable=1", uri=True)) as database:
            return database.execute("SELECT count(lines) FROM found").fetchone()[0]
    except sqlite3.Error:  # not there yet, or just being written
        return 0


@pytest.mark.gate
def test_a_killed_scan_goes_on(many: list[str], run) -> None:
    for path in map(Path, many):
        os.link(path, path.with_name(f"a-{path.name}"))
    argv = ["scan", "run", "--jobs", "1", "-o"]
    process = subprocess.Popen([*COMMITS_OFTEN, *argv, "killed.jsonl"], stderr=subprocess.DEVNULL)
    workers: list[int] = []
    first = 0
    while process.poll() is None and not 0 < first < done("killed.jsonl.journal"):  # so that the first are committed
        first = first or done("killed.jsonl.journal")
        workers = children(process.pid) or workers
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not Path("killed.jsonl").exists()
    resumed = run(*argv, "killed.jsonl", "--resume")
    assert resumed.code == 0
    before = int(resumed.err.partition("82 checkpoints, ")[2].partition(" of them before")[0])
    assert 0 < before < 82
    with scans_here():
        assert run(*argv, "whole.jsonl").code == 0
    assert Path("killed.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    deadline = time.monotonic() + 60
    assert workers
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlive the scan"
        time.sleep(0.05)


@pytest.mark.gate
def test_an_interrupt_ends_the_workers_and_keeps_what_is_done(many: list[str], run) -> None:
    argv = ["scan", "run", "--jobs", "2", "-o", "x.jsonl"]
    process = subprocess.Popen([sys.executable, "-m", "qkvinspect", *argv], stderr=subprocess.PIPE, text=True)
    while len(children(process.pid)) < 3:  # two workers, and what tracks their semaphores
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "")
    with scans_here():
        assert run(*argv, "--resume").code == 0
    assert Path("x.jsonl").read_bytes().count(b"\n") == 41 * 45


@pytest.mark.gate
def test_a_scheduler_that_goes_away_is_one_line_and_the_scan_can_go_on(many: list[str], run) -> None:
    for path in map(Path, many):
        os.link(path, path.with_name(f"a-{path.name}"))
    argv = ["scan", "run", "-o", "x.jsonl"]
    with cluster() as (address, process):
        scan = subprocess.Popen([*COMMITS_OFTEN, *argv, "--dask", address], stderr=subprocess.PIPE, text=True)
        while scan.poll() is None and not done("x.jsonl.journal"):
            time.sleep(0.01)
        process.kill()
        _, error = scan.communicate(timeout=120)
    assert (scan.returncode, error) == (2, "error: the Dask scheduler is gone; --resume goes on\n")
    assert run(*argv, "--resume").code == 0
    assert Path("x.jsonl").read_bytes().count(b"\n") == 82 * 45


@pytest.mark.gate
def test_dask_prints_nothing_of_its_own(address: str) -> None:
    """What its event loop meets while a scheduler goes away depends on when; none of it is for a user."""
    with dask(address):
        names = [name for name, logger in logging.root.manager.loggerDict.items() if getattr(logger, "handlers", ())]
        asked = {"asyncio", *(name for name in names if name.partition(".")[0] in {"distributed", "tornado"})}
        assert {"distributed", "tornado.application"} <= asked
        kinds = {type(handler) for name in asked for handler in logging.getLogger(name).handlers}
    assert kinds == {logging.NullHandler}


@pytest.mark.gate
def test_no_scheduler(training: Path, monkeypatch: pytest.MonkeyPatch, run) -> None:
    monkeypatch.setattr("qkvinspect.scans.engine._PATIENCE", 0.5)
    result = run("scan", "run", "-o", "x.jsonl", "--dask", "tcp://127.0.0.1:1")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "there is no Dask scheduler" in result.err


def test_what_is_not_installed(training: Path, monkeypatch: pytest.MonkeyPatch, run) -> None:
    for name, argv in (("distributed", ("x.jsonl", "--dask", "tcp://h:1")), ("pyarrow.parquet", ("x.parquet",))):
        monkeypatch.setitem(sys.modules, name, None)
        result = run("scan", "run", "-o", *argv)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "pip install 'qkvinspect[" in result.err
