"""Options that several commands share, and what they open."""

from __future__ import annotations

import os
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qkvinspect.render import RENDERERS

if TYPE_CHECKING:
    from qkvinspect.inspection import Options
    from qkvinspect.model import Checkpoint
    from qkvinspect.report import Report

Checkpoints = Annotated[
    Path,
    typer.Argument(metavar="PATH", help="A checkpoint, a shard index, or the directory of one.", show_default=False),
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
    typer.Option("--layout", metavar="[GLOB=]ID", help="The layout of all layers or those that match; repeatable."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Hyper-parameters (JSON or YAML) to trust before any others."),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", metavar="NAME=N", help="Allow a file more than usual: header=200MB, tensors=1M ...; repeatable."
    ),
]
Container = Annotated[
    str | None,
    typer.Option("--container", metavar="NAME", help="Which state_dict, where the file holds several."),
]

Heat = Annotated[
    str | None,
    typer.Option("--heat", metavar="COLUMN", help="A picture instead of tables: this figure by layer and head."),
]

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
    Format = StrEnum("Format", [(name, name) for name in RENDERERS])


def load(path: Path, container: str | None, config: Path | None, limits: list[str] | None) -> Checkpoint:
    """Open what the user named."""
    from qkvinspect.formats import open_checkpoint
    from qkvinspect.formats.limits import parse

    return open_checkpoint(path, container=container, config=config, limits=parse(limits or ()))


def report(
    checkpoint: Checkpoint,
    *,
    layers: list[str] | None,
    heads: list[str] | None,
    layouts: list[str] | None,
    norms: bool,
    evidence: Literal["none", "wanted", "thorough", "each"],
) -> Report:
    """Inspect it, with a progress bar if that takes long."""
    from qkvinspect.cli.progress import Bar
    from qkvinspect.inspection import inspect

    wanted = asked(layers=layers, heads=heads, layouts=layouts, norms=norms, evidence=evidence)
    with Bar("reading") as bar:
        return inspect(checkpoint, wanted, bar.advance)


def asked(
    *,
    layers: list[str] | None,
    heads: list[str] | None,
    layouts: list[str] | None,
    norms: bool,
    evidence: Literal["none", "wanted", "thorough", "each"],
) -> Options:
    """What the project's settings and the command line ask of inspection."""
    from qkvinspect.inspection import Options
    from qkvinspect.settings import find

    settings = find(Path.cwd())
    pairs = [text.rpartition("=")[::2] for text in layouts or []]
    return Options(
        heads=(*settings.heads, *(heads or ())),
        layouts=(*settings.layouts, *((glob or "*", id) for glob, id in pairs)),
        layers=tuple(layers or ()),
        norms=norms,
        evidence=evidence,
    )


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is, or None: then nothing may be cut or wrapped."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wants_colour() -> bool:
    """Colour in terminals, unless NO_COLOR is set (https://no-color.org); FORCE_COLOR asks for it anywhere."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")
