"""Runs that lie elsewhere: globs of what fsspec can list, and rows without secrets."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
import torch

from qkvinspect.formats import open_checkpoint
from qkvinspect.formats.expand import expand
from tests.remote.server import serving


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Three checkpoints and what is none, in fsspec's own memory."""
    system = fsspec.filesystem("memory")
    system.rm("/run", recursive=True) if system.exists("/run") else None
    for step in (10, 2, 30):
        torch.save({"a.in_proj_weight": torch.full((24, 8), float(step))}, tmp_path / "one.pt")
        system.pipe(f"/run/step={step}.pt", (tmp_path / "one.pt").read_bytes())
    system.pipe("/run/log.txt", b"loss")
    system.pipe("/run/step=40.pt", b"no checkpoint")
    return "memory://run"


def test_a_remote_glob(store: str) -> None:
    found = [url.rpartition("/")[2] for url in expand([f"{store}/*"])]
    assert sorted(found) == ["step=10.pt", "step=2.pt", "step=30.pt", "step=40.pt"]
    (url,) = expand([f"{store}/step=1*.pt"])
    with open_checkpoint(url) as checkpoint:
        assert list(checkpoint.tensors) == ["a.in_proj_weight"]


def test_check_reads_what_a_remote_glob_names(run, store: str) -> None:
    found = run("check", f"{store}/step=1*.pt", "--heads", "2", "--format", "json").json()["checkpoints"]
    assert [one["path"].rpartition("/")[2] for one in found] == ["step=10.pt"]
    missing = run("check", "memory://user:hidden@run/none*.pt")
    assert (missing.code, "no checkpoint matches" in missing.err, "hidden" in missing.err) == (2, True, False)


def test_the_web_lists_nothing(run, tmp_path: Path) -> None:
    result = run("scan", "http://127.0.0.1:9/run/*.pt", "-o", tmp_path / "run.jsonl")
    assert result.code == 2
    assert "does not list its files" in result.err


def test_rows_have_no_secrets(run, tmp_path: Path) -> None:
    torch.save({"a.in_proj_weight": torch.ones(24, 8)}, tmp_path / "one.pt")
    with serving(tmp_path) as web:
        url = web.url.replace("http://", "http://user:hidden@") + "/one.pt?signature=hidden"
        result = run("scan", url, "-o", tmp_path / "run.jsonl", "--heads", "2", "--jobs", "1")
    assert (result.code, "hidden" in result.out + result.err) == (0, False)
    journal = tmp_path / "run.jsonl.journal"
    assert b"hidden" not in journal.read_bytes()
    assert journal.stat().st_mode & 0o777 == 0o600
    text = (tmp_path / "run.jsonl").read_text()
    assert '"norm": 8.0' in text
    assert "hidden" not in text
