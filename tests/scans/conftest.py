"""A training run, trained once for all tests of a process, and given to each as hard links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scans.training import save, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 checkpoints of 200 steps."""
    return save(tmp_path_factory.mktemp("trained"), train(0, 200, every=5))


@pytest.fixture
def training(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of one's own, in the current folder, as ``run``."""
    (tmp_path / "run").mkdir()
    for path in trained.iterdir():
        os.link(path, tmp_path / "run" / path.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"
