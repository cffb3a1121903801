"""What every command prints in a terminal of 80 and of 200 columns, in a pipe, and in colour: one file a command.

``python tests/cli/test_goldens.py`` writes the files anew; read what changed. Escapes are shown as ``<1;32>``. Every
run prints each line in one view, the views by turns; ``-m mass`` prints each in all.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from rich.cells import cell_len

from qkvinspect.cli import app, main
from tests.here import kept_commands, scans_here

HERE = Path(__file__).parent
SAMPLES = HERE.parents[1] / "sample_checkpoints"

GOLDENS = {
    "show": [
        "show transformer.pt --heads 4",
        "show bert_like",
        "show damaged.pt",
        "show kdim_vdim.pt --per-head",
        "show training.pt --heat q_norm",
        "show sharded --why '*.0.*'",
        "show no_bias.safetensors --tensors",
    ],
    "explain": ["explain kdim_vdim.pt", "explain trained.safetensors '*.0.*' --evidence"],
    "analyze": [
        "analyze training.pt",
        "analyze training.pt --sort logit_bound --top 3",
        "analyze training.pt --values",
        "analyze training.pt --heat logit_bound",
    ],
    "export": ["export training.pt -o OUT/qkv.safetensors --dry-run", "export training.pt -o OUT/qkv.safetensors"],
    "check": ["check damaged.pt training.pt nofile.pt", "check miswritten.safetensors", "check --list"],
    "diff": ["diff trained.safetensors miswritten.safetensors", "diff transformer.pt transformer.safetensors"],
    "lineage": ["lineage LINEAGE/base LINEAGE/tuned LINEAGE/other"],
    "scan": ["scan training.pt -o OUT/run.jsonl --jobs 1"],
    "trend": ["trend RUN --column norm", "trend RUN --column norm --chart"],
    "pack": ["pack bert_like --to phi3 -o OUT/fused.safetensors --dry-run"],
    "convert": ["convert training.pt --to bert -o OUT/bert.pt --dry-run"],
    "report": ["report training.pt -o OUT/report.html --no-analysis"],
    "layouts": ["layouts", "layouts megatron-core", "layouts llama"],
    "browse": ["browse training.pt"],
}
"""Command lines; OUT is a folder that is not there before."""

VIEWS = {
    "80 columns": (80, False),
    "80 columns in colour": (80, True),
    "200 columns": (200, False),
    "a pipe": (0, False),
}


def printed(line: str, columns: int, colour: bool, out: str) -> str:
    """What a command prints on both streams, and its exit code."""
    places = {"OUT": out, "RUN": "../tests/scans/run.jsonl", "LINEAGE": "../tests/lineage/sample"}
    for name, place in places.items():
        line = line.replace(name, place)
    argv = shlex.split(line)
    stdout, stderr = io.StringIO(), io.StringIO()
    stdout.isatty = lambda: bool(columns)  # type: ignore[method-assign]
    surroundings = {
        "COLUMNS": str(columns or 80),
        "TERM": "xterm",
        "NO_COLOR": "" if colour else "1",
        "FORCE_COLOR": "",
    }
    with (
        scans_here(),
        kept_commands(),
        contextlib.chdir(SAMPLES),
        mock.patch.dict(os.environ, surroundings),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        code = main(argv)
    text = stdout.getvalue() + "".join(f"stderr: {said}\n" for said in stderr.getvalue().splitlines())
    return re.sub("\x1b\\[([0-9;]*)m", r"<\1>", text.replace(out, "OUT")) + f"exit code {code}\n"


def in_view(line: str, view: str) -> str:
    with tempfile.TemporaryDirectory() as out:
        return printed(line, *VIEWS[view], out)


def golden(command: str) -> str:
    """All command lines of a command in all views; a view that prints what the one before does is only named."""
    found: list[str] = []
    for line in GOLDENS[command]:
        shown: dict[str, list[str]] = {}
        for view in VIEWS:
            shown.setdefault(in_view(line, view), []).append(view)
        for text, names in shown.items():
            found.append(f"=== {line}\n=== {', '.join(names)}\n{text}")
    return "\n".join(found)


def goldens() -> dict[tuple[str, str], str]:
    """What stands in the files for each line in each view."""
    found: dict[tuple[str, str], str] = {}
    for command in GOLDENS:
        text = (HERE / "goldens" / f"{command}.txt").read_text()
        for section in re.split(r"^(?==== .*\n=== )", text, flags=re.MULTILINE)[1:]:
            line, views, body = section.split("\n", 2)
            found |= {(line[4:], view): body for view in views[4:].split(", ")}
    return found


LINES = [line for command in GOLDENS for line in GOLDENS[command]]


@pytest.mark.parametrize(("line", "view"), [(line, [*VIEWS][n % len(VIEWS)]) for n, line in enumerate(LINES)])
def test_it_prints_its_golden(line: str, view: str) -> None:
    assert in_view(line, view).rstrip("\n") == goldens()[line, view].rstrip("\n")


@pytest.mark.mass
@pytest.mark.parametrize("command", GOLDENS)
def test_it_prints_its_golden_in_every_view(command: str) -> None:
    assert golden(command) == (HERE / "goldens" / f"{command}.txt").read_text()


def test_every_command_has_one() -> None:
    assert {command.callback.__name__ for command in app.registered_commands if command.callback} == {*GOLDENS}


@pytest.mark.parametrize("command", GOLDENS)
def test_nothing_is_wider_than_the_terminal(command: str) -> None:
    """But for code and paths, which are to be copied, and for stderr, which is one line an error."""
    text = (HERE / "goldens" / f"{command}.txt").read_text()
    for section in text.split("\n=== ")[0:]:
        views, _, body = section.partition("\n")
        if "columns" not in views:
            continue
        width = 80 if "80 columns" in views else 200
        for line in re.sub("<[0-9;]+>", "", body).splitlines():
            assert cell_len(line) <= width or line.startswith(("stderr: ", "    ")), line


if __name__ == "__main__":
    for command in GOLDENS:
        (HERE / "goldens" / f"{command}.txt").write_text(golden(command))
