"""A training run, trained once for all tests, and given to each as hard links."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.scans.training import save, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 checkpoints of 200 steps, of whichever process of the tests comes first: the others wait for them."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with (base / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = base / "trained"
        if not found.exists():
            save(base / "training", train(0, 200, every=5)).rename(found)
        return found


@pytest.fixture
def training(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of one's own, in the current folder, as ``run``."""
    (tmp_path / "run").mkdir()
    for path in trained.iterdir():
        os.link(path, tmp_path / "run" / path.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"
