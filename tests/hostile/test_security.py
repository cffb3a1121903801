"""SECURITY.md: every test that a promise names exists, and the promise that no other test holds."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from qkvinspect import cli
from tests.batches import batched

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SECURITY)))
PROMISED = SECURITY.partition("## Promised")[2].partition("## Not promised")[0]


@batched("file name", NAMED)
def test_a_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert len(found) == 1
    assert not any(re.match(r"pytest\.mark\.(mass|slow)", ast.unparse(mark)) for mark in found[0].decorator_list)


def test_every_sentence_of_a_promise_names_its_tests() -> None:
    promises = [line for line in PROMISED.splitlines() if line.startswith("- ")]
    assert len(promises) == 7
    for promise in promises:
        said = re.sub(r"^- \*\*[^*]+\*\*\s*", "", promise)
        sentences = re.split(r"(?<=\.)\s+(?=[A-Z])", said)
        assert sentences
        for sentence in sentences:
            assert "`tests/" in sentence, sentence[:60]


def test_every_file_and_command_that_is_named_exists() -> None:
    for path in re.findall(r"\]\(([\w/.]+)\)", SECURITY):
        assert (ROOT / path).is_file(), path
    for module in re.findall(r"`python -m ([\w.]+)", SECURITY):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


def test_no_flag_trusts_a_file(run: Any) -> None:
    for command in cli.app.registered_commands:
        assert command.callback
        said = run(command.callback.__name__, "--help").out
        flags = re.findall(r"--[a-z][a-z-]+", said)
        assert flags
        assert not [flag for flag in flags if re.search("unsafe|trust|pickle|weights-only|insecure|verify-ssl", flag)]
