"""What commands print, and where: the result on stdout or in a file, everything else on stderr."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qkvinspect.cli import streams

if TYPE_CHECKING:
    from qkvinspect.analysis.grid import Grid
    from qkvinspect.checkpoint import Checkpoint
    from qkvinspect.render.document import Document
    from qkvinspect.render.view import ViewOptions

_LINES = 80


class ReaderGone(Exception):  # noqa: N818
    """Whoever read stdout has enough. Typer would make exit code 1 of a broken pipe: "different"."""


def put(
    document: Document, format: str, output: Path | None = None, *, force: bool = False, wide: bool = False
) -> None:
    """Write a result to stdout, or to a file in its place; a wide one in lines as long as they need."""
    from qkvinspect.render.view import ViewOptions
    from qkvinspect.render.writers import written

    if output is not None:
        save(written(document, format, ViewOptions()), output, force=force)
    elif not streams.quiet():
        say(written(document, format, ViewOptions(colour=wants_colour()) if wide else view()))


def say(text: str) -> None:
    """Write to stdout, unless only the exit code is wanted.

    Raises:
        ReaderGone: nobody reads it.
    """
    if streams.quiet():
        return
    try:
        sys.stdout.write(text)
    except BrokenPipeError as error:
        raise ReaderGone from error


def note(text: str, *, grave: bool = False) -> None:
    """A line on stderr.

    Args:
        grave: whether it is an error or a warning, which ``--quiet`` does not silence.
    """
    from qkvinspect.errors import clean, without_secrets

    if grave or not streams.quiet():
        print(without_secrets(clean(text)), file=sys.stderr)


def save(text: str, output: Path, *, force: bool) -> None:
    """Write a file of text; it appears whole or not at all."""
    from qkvinspect.atomic import new_file

    with new_file(output, force=force) as file:
        file.write(text.encode())


def require_drawable(heat: str | None, plot: Path | None, format: str, *, force: bool) -> None:
    """Refuse what cannot be drawn before any work."""
    from qkvinspect.errors import UsageError

    if heat is not None and format != "table":
        raise UsageError(f"--heat draws a picture, which is no {format}", hint=f"without it {format} has every figure")
    if plot is None:
        return
    from qkvinspect.render import plots

    if heat is None:
        raise UsageError("--plot needs to know what to draw", hint="--heat COLUMN")
    plots.require_plottable(plot, force=force)


def draw(grid: Grid, checkpoint: Checkpoint, plot: Path | None, output: Path | None, *, force: bool) -> None:
    """A heat map, as a picture in a file or of characters."""
    from qkvinspect.render.view import ViewOptions

    if plot is not None:
        from qkvinspect.render import plots

        plots.save(grid, checkpoint.path, plot, force=force)
        return
    from qkvinspect.render.heatmap import render

    if output is not None:
        save(render(grid, ViewOptions()), output, force=force)
    else:
        say(render(grid, view()))


def view() -> ViewOptions:
    """What stdout is."""
    from qkvinspect.render.view import ViewOptions

    return ViewOptions(width=terminal_width(), colour=wants_colour())


def lines() -> int | None:
    """Of a result that can be summed up: about as many as a reader looks through in a terminal; in a pipe all."""
    return _LINES if terminal_width() is not None else None


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is, or None: then nothing may be cut or wrapped."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def wants_colour() -> bool:
    """Colour in terminals, unless NO_COLOR is set (https://no-color.org); FORCE_COLOR asks for it anywhere."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")
