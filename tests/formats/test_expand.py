"""Which checkpoints paths, folders and globs name, for every command that takes several."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from qkvinspect.errors import UsageError
from qkvinspect.formats.expand import expand

TREE = (
    "run/step=1.pt",
    "run/step=2.pt",
    "run/log.txt",
    "run/logs/events.0",
    "run/checkpoint-10/model.safetensors",
    "run/checkpoint-10/config.json",
    "run/checkpoint-10/optimizer.pt",
    "run/checkpoint-20/model-00001-of-00002.safetensors",
    "run/checkpoint-20/model.safetensors.index.json",
    "run/old/step=0.ckpt",
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


ALL = ["run/checkpoint-10", "run/checkpoint-20", "run/old/step=0.ckpt", "run/step=1.pt", "run/step=2.pt"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["run/step=*.pt"], ["run/step=1.pt", "run/step=2.pt"]),
        (["run/*.pt", "run/step=1.pt"], ["run/step=1.pt", "run/step=1.pt", "run/step=2.pt"]),
        (["run/checkpoint-*"], ALL[:2]),
        (["run/checkpoint-10/"], ALL[:1]),
        (["run"], ALL),
        (["run/*"], ALL),
        (["run/**"], ALL),
        (["run/**/*.ckpt"], ["run/old/step=0.ckpt"]),
        (["run/log.txt"], ["run/log.txt"]),
        (["s3://bucket/a.pt"], ["s3://bucket/a.pt"]),
        (["nowhere.pt"], ["nowhere.pt"]),
    ],
)
def test_patterns(tree: Path, patterns: list[str], found: list[str]) -> None:
    assert sorted(expand(patterns)) == found


def test_a_pattern_without_a_match_is_refused(tree: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint matches"):
        list(expand(["run/*.safetensors"]))


def test_a_name_with_brackets_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a[1].pt").touch()
    assert list(expand([str(tmp_path / "a[1].pt")])) == [str(tmp_path / "a[1].pt")]


def test_linked_folders_are_followed_once(tree: Path) -> None:
    (tree / "elsewhere/deep").mkdir(parents=True)
    (tree / "elsewhere/deep/step=3.pt").touch()
    (tree / "run/linked").symlink_to(tree / "elsewhere", target_is_directory=True)
    (tree / "run/again").symlink_to(tree / "elsewhere/deep", target_is_directory=True)
    (tree / "elsewhere/loop").symlink_to(tree / "run", target_is_directory=True)
    found = [os.path.realpath(path) for path in expand(["run"])]
    assert sorted(found) == sorted([*(str(tree / one) for one in ALL), str(tree / "elsewhere/deep/step=3.pt")])


def test_check_and_scan_read_the_same_files(run, tmp_path: Path) -> None:
    torch.save({"a.in_proj_weight": torch.ones(24, 8)}, tmp_path / "step=1.pt")
    (tmp_path / "notes.bak").write_text("no checkpoint")
    (tmp_path / "log").mkdir()
    (tmp_path / "log/only.pt").write_bytes((tmp_path / "step=1.pt").read_bytes())
    checked = run("check", tmp_path / "*", "--heads", "2", "--format", "json").json()["checkpoints"]
    assert run("scan", tmp_path / "*", "-o", tmp_path / "run.jsonl", "--heads", "2", "--jobs", "1").code == 0
    rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    expected = [str(tmp_path / "log/only.pt"), str(tmp_path / "step=1.pt")]
    assert [one["path"] for one in checked] == expected
    assert sorted({row["checkpoint"] for row in rows}) == expected
