"""What a command prints, for the pages that cog fills in."""

from __future__ import annotations

import contextlib
import io
import os
import shlex

import cog  # pyright: ignore[reportMissingImports]

from qkvinspect.cli import main


def run(command: str, folder: str = "sample_checkpoints") -> None:
    """Put a command and what it prints into the page, as in a pipe: nothing is cut or wrapped."""
    out = io.StringIO()
    before = os.environ.pop("FORCE_COLOR", None)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.chdir(folder):
        main(shlex.split(command)[1:])
    if before is not None:
        os.environ["FORCE_COLOR"] = before
    cog.outl(f"```console\n$ {command}\n{out.getvalue().rstrip()}\n```")
