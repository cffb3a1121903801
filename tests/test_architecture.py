"""The shape of the package: every module is listed where its folder lists modules; the sizes stay livable."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import qkvinspect
from qkvinspect import cli
from qkvinspect.formats import FORMATS
from qkvinspect.layouts import LAYOUTS, Layout
from qkvinspect.render.scan import SCAN_WRITERS
from tests.batches import each

PACKAGE = Path(qkvinspect.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


TOP_LEVEL = {
    *("pyproject.toml", "README.md", "qkvinspect", "tests", "sample_checkpoints", "docs", "LICENSE", "CHANGELOG.md"),
    *("SECURITY.md", ".gitignore", "constraints.txt", ".ci", ".github", ".pre-commit-hooks.yaml", "action.yml"),
}
"""What the project consists of, and what the tools around it expect by name."""

TESTS = PACKAGE.parent / "tests"
OF_THE_WHOLE = {
    "benchmarks": "times and memory of commands, beside other tools",
    "census": "the library's own models of whole repositories",
    "census_perturbed": "the same models, renamed and cut otherwise",
    "evidence": "trained models, and how often their heads are recognised",
    "families": "the names of published checkpoints",
    "hostile": "crafted and mutated files, through every command",
    "mutation": "whether the suite sees a changed line",
    "proofs": "each row of the registry on its library's own module",
    "real": "checkpoints that others trained",
    "remote": "servers that fail, through every command",
    "tables": "generators of the tables of inspection/facts, and their oracles",
}
"""Suites that look at the program from outside; all others belong to a folder or a module of the package."""

OF_THE_PROJECT = {"against_torch", "architecture", "docs", "extension", "gate", "samples"}
"""What is held of the project as a whole, beside the modules that lie on top of the package."""


def test_nothing_else_is_at_the_top_level() -> None:
    """Scratch files beside the package are committed easily and looked at by nobody."""
    root = PACKAGE.parent
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode or not (root / ".git").exists():
        pytest.skip("not a git checkout")
    assert {line.partition("/")[0] for line in listed.stdout.splitlines()} <= TOP_LEVEL


def test_tests_mirror_the_package() -> None:
    own = {path.stem for path in PACKAGE.glob("*.py")} | OF_THE_PROJECT
    for path in sorted(TESTS.rglob("test_*.py")):
        folder = path.parent.relative_to(TESTS)
        if folder == Path():
            assert path.stem.removeprefix("test_") in own, f"{path.name} is about no module of this name"
        elif folder.parts[0] not in OF_THE_WHOLE:
            assert any((PACKAGE / folder).glob("*.py")) or (PACKAGE / folder).with_suffix(".py").exists(), (
                f"tests/{folder} mirrors no folder or module of the package"
            )


def modules(folder: str) -> list[str]:
    return [path.stem for path in sorted((PACKAGE / folder).glob("*.py")) if path.stem != "__init__"]


def test_every_format_is_listed() -> None:
    folders = [path.parent.name for path in sorted((PACKAGE / "formats").glob("*/__init__.py"))]
    offering = {
        name
        for name in (*modules("formats"), *folders)
        if hasattr(importlib.import_module(f"qkvinspect.formats.{name}"), "sniff")
    }
    listed = [load() for load in FORMATS]
    assert {module.__name__.removeprefix("qkvinspect.formats.") for module in listed} == offering
    assert len({module.NAME for module in listed}) == len(FORMATS)


def test_every_layout_is_listed_once() -> None:
    rows = [
        row
        for name in modules("layouts")
        for row in getattr(importlib.import_module(f"qkvinspect.layouts.{name}"), "LAYOUTS", ())
    ]
    assert sorted(row.id for row in rows) == sorted(row.id for row in LAYOUTS)
    assert len({row.id for row in LAYOUTS}) == len(LAYOUTS)


def test_layouts_are_complete() -> None:
    each(((row.id, row) for row in LAYOUTS), _is_complete)


def _is_complete(row: Layout) -> None:
    held = set().union(*(stored.packing.parts for stored in row.weights))
    assert held <= {"q", "k", "v", "gate", "vgate", "mlp"}
    assert row.source
    assert row.libraries
    assert row.id == row.id.lower()


HELPERS = {"commands", "declared", "options", "outputs", "plain", "printing", "progress", "heads_anew", "saving"}
HELPERS |= {"startup", "streams", "with_typer"}
"""Modules of ``cli`` that are no command."""


def test_every_command_is_registered() -> None:
    commands = set(modules("cli")) - HELPERS
    registered = {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    assert registered == commands


def test_every_file_that_scan_writes_is_listed() -> None:
    assert set(modules("render/scan")) == set(SCAN_WRITERS)


def test_modules_say_what_they_are_for_and_stay_small() -> None:
    each(((str(path), path) for path in MODULES), _is_small)


def _is_small(path: Path) -> None:
    text = path.read_text()
    assert text.startswith('"""')
    assert text.count("\n") <= 320


def test_no_two_classes_share_a_name() -> None:
    """Private ones neither: a word means one thing in the whole package."""
    found = [name for path in MODULES for name in re.findall(r"^class _?(\w+)", path.read_text(), re.MULTILINE)]
    assert [name for name, count in Counter(found).items() if count > 1] == []


def test_the_public_api_is_what_it_says() -> None:
    assert dir(qkvinspect) == sorted(qkvinspect.__all__)
    for name in qkvinspect.__all__:
        found = getattr(qkvinspect, name)
        assert getattr(found, "__name__", name) == name
    with pytest.raises(AttributeError):
        qkvinspect.nothing  # noqa: B018
