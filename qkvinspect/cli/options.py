"""Options that several commands share, and what they open."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from qkvinspect.render.writers import WRITERS

if TYPE_CHECKING:
    from qkvinspect.analysis.grid import Grid
    from qkvinspect.checkpoint import Checkpoint
    from qkvinspect.inspection import Options
    from qkvinspect.inspection.report import Report
    from qkvinspect.render.document import Document
    from qkvinspect.render.view import ViewOptions

T = TypeVar("T")

Checkpoints = Annotated[
    str,
    typer.Argument(
        metavar="PATH", help="A checkpoint, a shard index, the directory of one, or a URL.", show_default=False
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option("--layer", "-l", metavar="GLOB", help="Only layers whose name matches; repeatable."),
]
Heads = Annotated[
    list[str] | None,
    typer.Option(
        "--heads",
        metavar="[GLOB=]N[/KV]",
        help="The number of heads (and kv heads), of all layers or those that match; repeatable.",
    ),
]
Layouts = Annotated[
    list[str] | None,
    typer.Option(
        "--layout",
        metavar="[GLOB=]ID|{ROW}",
        help="The layout of all layers or those that match, or a row that describes one; repeatable.",
    ),
]
Config = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="Hyper-parameters (JSON or YAML) to trust before any others."),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", metavar="NAME=N", help="Allow a file more than usual: header=200MB, tensors=1M ...; repeatable."
    ),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="PATH", help="The model that PATH, a LoRA adapter, is added to."),
]
Container = Annotated[
    str | None,
    typer.Option("--container", metavar="NAME", help="Which state_dict, where the file holds several."),
]

Heat = Annotated[
    str | None,
    typer.Option("--heat", metavar="COLUMN", help="A picture instead of tables: this figure by layer and head."),
]

Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="With --heat: draw it into a file: .png, .svg or .pdf."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]

Download = Annotated[bool, typer.Option("--download", help="Fetch what a URL leads to whole, to a temporary file.")]

AskWeights = Annotated[
    bool,
    typer.Option(
        "--evidence/--no-evidence",
        help="Ask the weights where nothing else tells the heads or the layout, and whether they agree.",
    ),
]

if TYPE_CHECKING:
    Format = str
else:
    Format = StrEnum("Format", [(name, name) for name in WRITERS])

AskFormat = Annotated[Format, typer.Option("--format", "-f", help="How to print it.")]
TABLE = Format("table")


def load(
    path: str,
    container: str | None,
    config: str | None,
    limits: list[str] | None,
    download: bool,
    base: str | None = None,
) -> Checkpoint:
    """Open what the user named, and what it is added to."""
    from qkvinspect.cli.progress import Bar
    from qkvinspect.formats import open_checkpoint
    from qkvinspect.formats.limits import parse

    allowed = parse(limits or ())
    with Bar("downloading") as bar:
        return open_checkpoint(
            path,
            container=container,
            config=config,
            limits=allowed,
            download=download,
            progress=bar.advance,
            base=base,
        )


def load_sides(
    paths: Sequence[str],
    containers: Sequence[str | None],
    configs: Sequence[str | None],
    limits: list[str] | None,
    download: bool,
    base: str | None,
) -> list[Checkpoint]:
    """Open what is compared; ``base`` is what those of them are added to that are adapters.

    Raises:
        CheckpointError: one cannot be read; none stays open.
        UsageError: ``base`` is given, and none of them is an adapter.
    """
    from qkvinspect.errors import UsageError
    from qkvinspect.weights.adapters import is_adapter

    with ExitStack() as opened:
        found: list[Checkpoint] = []
        for path, container, config in zip(paths, containers, configs, strict=False):
            side = opened.enter_context(load(path, container, config, limits, download))
            if base is not None and is_adapter(side):
                side = opened.enter_context(load(path, container, config, limits, download, base))
            found.append(side)
        if base is not None and all(side.adapter is None for side in found):
            raise UsageError("neither side is an adapter that --base could be added to", hint="leave --base out")
        opened.pop_all()
    return found


def report(
    checkpoint: Checkpoint,
    *,
    layers: list[str] | None,
    heads: list[str] | None,
    layouts: list[str] | None,
    norms: bool,
    evidence: Literal["none", "wanted", "thorough", "each"],
) -> Report:
    """Inspect it as the command line and the settings say."""
    return inspected(checkpoint, asked(layers=layers, heads=heads, layouts=layouts, norms=norms, evidence=evidence))


def inspected(checkpoint: Checkpoint, options: Options) -> Report:
    """Inspect it, with a progress bar if that takes long."""
    from qkvinspect.cli.progress import Bar
    from qkvinspect.inspection import inspect

    with Bar("reading") as bar:
        return inspect(checkpoint, options, bar.advance)


def asked(
    *,
    layers: list[str] | None,
    heads: list[str] | None,
    layouts: list[str] | None,
    norms: bool,
    evidence: Literal["none", "wanted", "thorough", "each"],
) -> Options:
    """What the command line and the settings of the project say."""
    from qkvinspect.inspection import Options
    from qkvinspect.layouts.from_settings import parse, rows
    from qkvinspect.settings import find

    settings = find(Path.cwd())
    given = [text.strip() for text in layouts or []]
    pairs = [text.rpartition("=")[::2] for text in given if not text.startswith("{")]
    return Options(
        heads=(*settings.heads, *(heads or ())),
        layouts=tuple((glob or "*", id) for glob, id in pairs),
        settled=settings.layouts,
        told=rows(settings.rows, settings.origin),
        told_now=tuple(parse(text) for text in given if text.startswith("{")),
        layers=tuple(layers or ()),
        norms=norms,
        evidence=evidence,
    )


def each(values: Sequence[T] | None, flag: str) -> tuple[T | None, T | None]:
    """One value is for both sides, two are for A and B."""
    from qkvinspect.errors import UsageError

    match values or []:
        case []:
            return None, None
        case [both]:
            return both, both
        case [first, second]:
            return first, second
        case _:
            raise UsageError(f"{flag} is given more than twice", hint="once for both sides, or once for each")


def require_plottable(plot: Path | None, heat: str | None, *, force: bool) -> None:
    """Refuse what cannot be drawn before any work."""
    if plot is None:
        return
    from qkvinspect.errors import UsageError
    from qkvinspect.render import plots

    if heat is None:
        raise UsageError("--plot needs to know what to draw", hint="--heat COLUMN")
    plots.require_plottable(plot, force=force)


def draw(grid: Grid, checkpoint: Checkpoint, plot: Path | None, *, force: bool) -> None:
    """A heat map, into a file or onto stdout."""
    if plot is not None:
        from qkvinspect.render import plots

        plots.save(grid, checkpoint.path, plot, force=force)
    else:
        from qkvinspect.render.heatmap import render

        sys.stdout.write(render(grid, view()))


def view() -> ViewOptions:
    """What stdout is."""
    from qkvinspect.render.view import ViewOptions

    return ViewOptions(width=terminal_width(), colour=wants_colour())


def put(document: Document, format: str, *, wide: bool = False) -> None:
    """Write a result to stdout; a wide one in lines as long as they need."""
    from qkvinspect.render.view import ViewOptions
    from qkvinspect.render.writers import written

    sys.stdout.write(written(document, format, ViewOptions(colour=wants_colour()) if wide else view()))


_LINES = 80


def lines() -> int | None:
    """Of a result that can be summed up: about as many as a reader looks through in a terminal; in a pipe all."""
    return _LINES if terminal_width() is not None else None


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is, or None: then nothing may be cut or wrapped."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wants_colour() -> bool:
    """Colour in terminals, unless NO_COLOR is set (https://no-color.org); FORCE_COLOR asks for it anywhere."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")
