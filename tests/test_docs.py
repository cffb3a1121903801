"""The README is true: its commands run, its Python runs, every command and option has its place."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import qkvinspect
from qkvinspect.cli import app
from qkvinspect.layouts import LAYOUTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_command_is_in_the_readme() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"qkvinspect {command.callback.__name__}" in README


def test_every_layout_is_in_the_readme() -> None:
    for row in LAYOUTS:
        assert f"`{row.id}`" in README


def test_every_exit_code_is_in_the_readme() -> None:
    assert re.search(r"\| `0` \|.*\n\| `1` \|.*\n\| `2` \|", README)


def test_the_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```pycon\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        test = doctest.DocTestParser().get_doctest(block, {}, "README", "README.md", 0)
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


def test_the_doctest_of_the_package_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert doctest.testmod(qkvinspect, optionflags=doctest.ELLIPSIS).failed == 0


def test_the_installs_of_the_readme_use_the_constraints() -> None:
    for line in README.splitlines():
        if "pip install" in line and "<!--" not in line:
            assert "-c constraints.txt" in line


def test_the_changelog_knows_this_version() -> None:
    assert f"## {qkvinspect.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_constraints_name_every_dependency() -> None:
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {"torch", "typer", "rich", "safetensors", "numpy", "pyyaml"} <= pinned
