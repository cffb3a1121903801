"""Many at once, exit codes, and the ways that CI runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from qkvinspect.checks import rules
from tests.checks.conftest import State

ROOT = Path(__file__).parents[2]


def paths(result: Any) -> list[str]:
    return [one["path"] for one in result.json()["checkpoints"]]


def test_folders_globs_and_doubles(tmp_path: Path, sound: State, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("runs/a/step1.pt", "runs/a/step2.pt", "runs/b/model.safetensors.d/x.pt", "one/model.pt"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(sound, path)
    Path("runs/.hidden").mkdir()
    Path("runs/.hidden/x.pt").write_bytes(b"no")
    Path("runs/a/notes.txt").write_text("no")
    torch.save({}, "one/optimizer.pt")
    flags = ("--heads", "4", "--no-evidence", "--format", "json")
    below = ["runs/a/step1.pt", "runs/a/step2.pt", "runs/b/model.safetensors.d/x.pt"]
    assert paths(run("check", "runs", *flags)) == below
    assert paths(run("check", "runs/a/*.pt", "runs/a/step1.pt", *flags)) == below[:2]
    assert paths(run("check", "**/step*.pt", *flags)) == below[:2]
    assert paths(run("check", "one", *flags)) == ["one"]
    assert "3 checkpoints: 0 errors, 0 warnings" in run("check", "runs", *flags[:3]).out
    assert run("check", "*.pth").code == 2
    assert run("check", ".", "--baseline", "x").code == 2


def test_one_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path, samples: Path, run: Any) -> None:
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 no")
    result = run("check", tmp_path / "broken.pt", samples / "damaged.pt", tmp_path / "none.pt", "--format", "json")
    assert result.code == 2
    broken, damaged, none = result.json()["checkpoints"]
    assert "[QKV-F" in broken["error"]
    assert damaged["findings"]
    assert "[QKV-F" in none["error"]
    text = run("check", tmp_path / "broken.pt").out
    assert "not checked" in text
    assert "1 not readable" in text


def test_without_a_path(run: Any) -> None:
    result = run("check")
    assert result.code == 2
    assert "no checkpoint is named" in result.err
    listed = run("check", "--list").out.splitlines()
    assert [line.split()[1] for line in listed] == [rule.code for rule in rules()]


@pytest.mark.gate
def test_the_action_passes_each_path_as_it_is(tmp_path: Path, samples: Path) -> None:
    """The last step of action.yml, as a runner runs it."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    script = action["runs"]["steps"][-1]["run"]
    tools = tmp_path / "qkvinspect" / "bin"
    tools.mkdir(parents=True)
    (tools / "qkvinspect").write_text(f'#!/bin/bash\nexec {sys.executable} -m qkvinspect "$@"\n')
    (tools / "qkvinspect").chmod(0o755)
    odd = tmp_path / "a model; touch $(hacked).pt"
    odd.write_bytes((samples / "damaged.pt").read_bytes())
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        env={
            **os.environ,
            "RUNNER_TEMP": str(tmp_path),
            "GITHUB_ACTIONS": "true",
            "ARGUMENTS": "--fail-on error",
            "PATHS": f"{odd}\n\n{samples / 'training.pt'}\n",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "2 checkpoints: 1 error" in done.stdout
    assert "::error file=" in done.stdout
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("schema", "file"),
    [("vendor.github-actions", "action.yml"), ("vendor.github-workflows", ".github/workflows/gate.yml")],
)
@pytest.mark.gate
def test_github_files_keep_their_schema(schema: str, file: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(ROOT / file)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.gate
def test_the_hook_is_sound(tmp_path: Path) -> None:
    """Read by prek; that it runs is shown with ``-m slow``, as that installs the package anew."""
    command = [sys.executable, "-m", "prek", "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    pattern = re.compile(hook["files"])
    assert all(pattern.search(f"a/model.{end}") for end in ("pt", "pth", "ckpt", "bin", "safetensors"))
    assert not pattern.search("model.py")


@pytest.mark.slow
def test_the_hook_runs_in_a_repository(tmp_path: Path, samples: Path) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "damaged.pt").write_bytes((samples / "damaged.pt").read_bytes())
    git("add", "-A")
    git("commit", "-qm", "one")
    constraints = str(ROOT / "constraints.txt")
    done = subprocess.run(
        [sys.executable, "-m", "prek", "try-repo", str(ROOT), "qkvinspect", "--all-files"],
        cwd=tmp_path,
        env={**os.environ, "UV_CONSTRAINT": constraints, "PIP_CONSTRAINT": constraints},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "K holds 1 NaN or infinite value" in done.stdout + done.stderr
