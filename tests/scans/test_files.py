"""Whose share each checkpoint is, and whether it was changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qkvinspect.errors import UsageError
from qkvinspect.scans.files import Shard, parse_shard, stamp
from qkvinspect.scans.journal import natural


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("run/step=1.pt", "run/checkpoint-10/model.safetensors", "run/checkpoint-10/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shards_share_everything_and_keep_what_they_have() -> None:
    paths = [f"run/step={number}.pt" for number in range(2000)]
    shards = [[path for path in paths if path in Shard(i, 8)] for i in range(1, 9)]
    assert sorted(path for shard in shards for path in shard) == sorted(paths)
    assert all(200 < len(shard) < 300 for shard in shards)
    assert [path for path in paths[:100] if path in Shard(3, 8)] == [path for path in shards[2] if path in paths[:100]]
    assert all(path in Shard() for path in paths)


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/", "a/b", "-1/8", "1/0", "3/8\n"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text)
    assert parse_shard("3/8") == Shard(3, 8)


def test_a_stamp_follows_the_files(tree: Path) -> None:
    folder, file = "run/checkpoint-10", "run/step=1.pt"
    before = stamp(folder), stamp(file)
    os.utime("run/checkpoint-10/model.safetensors", (1, 1))
    Path(file).write_text("x")
    assert stamp(folder) != before[0] != ""
    assert stamp(file) != before[1] != ""
    assert stamp("s3://bucket/a.pt") == ""


def test_numbers_are_sorted_as_numbers() -> None:
    names = ["step-100", "step-9", "tep-1", "step-10b", "step-10"]
    assert sorted(names, key=natural) == ["step-9", "step-10", "step-10b", "step-100", "tep-1"]


def test_a_name_that_nothing_has(tmp_path: Path, run) -> None:
    result = run("scan", tmp_path / "nofile.pt", "-o", tmp_path / "run.jsonl")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "no checkpoint matches" in result.err
    assert not (tmp_path / "run.jsonl").exists()
