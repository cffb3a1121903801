"""The README and the pages of docs/ are true: what they show was printed, their Python runs, their links lead on."""

from __future__ import annotations

import doctest
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

import qkvinspect
from qkvinspect.cli import app
from qkvinspect.layouts import LAYOUTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def page(name: str) -> str:
    return PAGES[ROOT / "docs" / name]


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len(README.encode()) <= 12_000


def test_links_lead_to_files() -> None:
    for path, text in PAGES.items():
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = re.findall(r"\(docs/([a-z]+\.md)\)", README)
    assert {path.name for path in PAGES} - {"README.md"} == set(linked)


@pytest.mark.gate
def test_the_picture_is_what_show_prints() -> None:
    specification = importlib.util.spec_from_file_location("picture", ROOT / "docs" / "picture.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.picture() == (ROOT / "docs" / "show.svg").read_text()


def test_every_command_is_in_the_readme() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"qkvinspect {command.callback.__name__}" in README


def test_every_layout_has_its_line() -> None:
    for row in LAYOUTS:
        assert f"`{row.id}`" in page("layouts.md")


def test_every_exit_code_is_in_the_readme() -> None:
    assert re.search(r"\| `0` \|.*\n\| `1` \|.*\n\| `2` \|", README)


def test_python_on_the_pages_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = {path: re.findall(r"```pycon\n(.*?)```", text, re.DOTALL) for path, text in PAGES.items()}
    assert sum(map(len, found.values())) >= 5
    for path, blocks in found.items():  # those of a page are read one after another
        test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, path.name, path.name, 0)
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


def test_the_doctest_of_the_package_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert doctest.testmod(qkvinspect, optionflags=doctest.ELLIPSIS).failed == 0


def test_installs_use_the_constraints() -> None:
    for text in PAGES.values():
        for line in text.splitlines():
            if "pip install" in line:
                assert line.count("-c constraints.txt") == line.count("pip install")


def test_the_install_without_torch_has_every_other_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[>=<~ ]", line)[0] for line in project["dependencies"]} - {"torch"}
    assert f"constraints.txt {' '.join(sorted(names))} &&" in page("checks.md")
    assert f'constraints.txt" {" ".join(sorted(names))}\n' in (ROOT / "action.yml").read_text()


def test_the_changelog_knows_this_version() -> None:
    assert f"## {qkvinspect.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_constraints_name_every_dependency() -> None:
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {"torch", "typer", "rich", "safetensors", "numpy", "pyyaml"} <= pinned


def test_every_mass_run_is_listed() -> None:
    """MASS.md says what is run before a release, and how it went when it was."""
    marks = re.compile(r"mark\.mass|from tests\.some import")
    files = [path for path in (ROOT / "tests").rglob("*.py") if path.name not in ("test_docs.py", "some.py")]
    marked = [path for path in files if marks.search(path.read_text(encoding="utf-8"))]
    listed = (ROOT / "tests" / "MASS.md").read_text(encoding="utf-8")
    missing = [
        str(path.relative_to(ROOT / "tests"))
        for path in marked
        if path.name not in listed and f"`{path.parent.name}/`" not in listed
    ]
    assert not missing
