"""Lines that are read without typer call a command with what typer would call it with."""

from __future__ import annotations

from functools import wraps
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from qkvinspect.cli import plain
from qkvinspect.cli.commands import COMMANDS, command
from qkvinspect.cli.with_typer import whole
from tests.some import mass

VALUES = (
    "model.pt",
    "other.pt",
    "json",
    "csv",
    "junit",
    "info",
    "exact",
    "8",
    "0.5",
    "*=8/2",
    "",
    "-",
    "--",
    "-x",
    "=a",
)


APP = whole()


def recording(name: str, calls: list[dict[str, object]]) -> Any:
    """A command as typer makes it, that only tells what it is called with."""
    one = next(c for c in APP.registered_commands if c.callback and c.callback.__name__ == name).callback
    assert one is not None

    @wraps(one)
    def record(**given: object) -> None:
        calls.append(given)

    recorder = typer.Typer(add_completion=False, rich_markup_mode=None)
    recorder.command()(record)
    return typer.main.get_command(recorder)


CALLS: list[dict[str, object]] = []
MADE = {name: recording(name, CALLS) for name in COMMANDS}


def with_typer(name: str, words: list[str]) -> dict[str, object] | None:
    CALLS.clear()
    try:
        MADE[name](args=words, standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
    return CALLS[0] if CALLS else None


def lines(name: str) -> st.SearchStrategy[tuple[str, list[str]]]:
    names = [word for param in MADE[name].params for word in (*param.opts, *param.secondary_opts) if word[0] == "-"]
    joined = [word + end for word in names for end in ("=8", "=", "8")]
    return st.lists(st.sampled_from([*names, *names, *joined, *VALUES, *VALUES])).map(lambda words: (name, words))


@pytest.mark.parametrize("count", [100, pytest.param(300, marks=pytest.mark.gate), mass(3000)])
def test_what_is_plain_is_what_typer_reads(count: int) -> None:
    @settings(max_examples=count, deadline=None)
    @given(st.sampled_from(COMMANDS).flatmap(lines))
    def holds(line: tuple[str, list[str]]) -> None:
        name, words = line
        read = plain.call(command(name), words)
        if read is not None:
            assert read == with_typer(name, words)

    holds()


@pytest.mark.parametrize(
    "line",
    [
        "show model.pt",
        "show model.pt --heads 16 --per-head --no-evidence -l a --layer=b -f json",
        "show --no-norms model.pt",
        "explain model.pt encoder.0 --format csv -o out",
        "export --split --no-evidence model.pt -o new.safetensors --force --dry-run",
        "check a.pt b.pt --select nonfinite -o out",
        "check a.pt b.pt --select nonfinite -f junit",
        "lineage a b c --expect derived",
        "scan a b -o rows.jsonl --no-evidence",
        "report a -o page.html b --no-analysis",
        "layouts",
        "analyze model.pt --wide",
    ],
)
def test_ordinary_lines_are_plain(line: str) -> None:
    name, *words = line.split()
    assert plain.call(command(name), words) == with_typer(name, words) != None  # noqa: E711


@pytest.mark.parametrize(
    "line",
    ["show", "show --help", "show a.pt b.pt", "show -x a.pt", "show a.pt --layer", "show a.pt -f xml", "export a"],
)
def test_help_and_mistakes_are_typers(line: str) -> None:
    name, *words = line.split()
    assert plain.call(command(name), words) is None
