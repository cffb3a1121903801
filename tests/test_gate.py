"""The rest of the gate: style, types, the direction of imports, and the generated parts of the README."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

COMMANDS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "pyright": ["pyright", "--pythonpath", sys.executable],
    "lint-imports": ["lint-imports", "--no-cache"],
    "cog": ["cog", "-I", "docs", "--check", "--diff", "README.md", *map(str, sorted(ROOT.glob("docs/*.md")))],
}

LONG = ("pyright", "cog")
NODE = {"NODE_OPTIONS": "--max-semi-space-size=64"}
"""Room for what pyright makes and throws away at once: a tenth of its time goes into tidying a smaller one."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.gate if name in LONG else ()) for name in COMMANDS]
)
def test_gate(name: str) -> None:
    program, *arguments = COMMANDS[name]
    surroundings = os.environ | NODE
    result = subprocess.run(
        [BIN / program, *arguments], cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
