"""What is printed where the encoding of stdout lacks letters, and what happens at a fault of our own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def printed(*argv: object, **variables: str) -> tuple[int, bytes, bytes]:
    """What a process of its own says, in the encoding that the variables choose."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "-m", "qkvinspect", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["windows", "ascii", "C"],
)
def test_lines_and_blocks_are_drawn_in_ascii(variables: dict[str, str]) -> None:
    sample = ROOT / "sample_checkpoints" / "trained.safetensors"
    code, out, err = printed("diff", sample, sample, **variables)
    assert (code, err) == (0, b"")
    assert b"--------" in out
    out.decode("ascii")
    code, out, err = printed("trend", "tests/scans/run.jsonl", "--chart", **variables)
    assert code == 1  # as in any encoding: that run has findings
    assert b"Traceback" not in err
    out.decode("ascii")
    assert b"\\u" not in out


def test_utf8_is_drawn_as_ever() -> None:
    sample = ROOT / "sample_checkpoints" / "trained.safetensors"
    assert "────" in printed("diff", sample, sample, PYTHONIOENCODING="utf-8")[1].decode()


def test_a_fault_of_ours_is_one_line_and_not_the_exit_code_of_a_difference() -> None:
    program = (
        "import qkvinspect.cli as cli\n"
        "def broken(argv=None): raise ZeroDivisionError('by\\x1b[31m zero')\n"
        "cli.main = broken\n"
        "cli.run()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=False, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: unexpected ZeroDivisionError in <string>:2: by\\x1b[31m zero; ")
