"""Options that several commands share, and what they open."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from qkvinspect.cli.declared import argument, option
from qkvinspect.render.writers import WRITERS

if TYPE_CHECKING:
    from qkvinspect.checkpoint import Checkpoint
    from qkvinspect.inspection import Options
    from qkvinspect.inspection.report import Report

T = TypeVar("T")

Checkpoints = Annotated[
    str,
    argument(metavar="PATH", help="A checkpoint, a shard index, the directory of one, or a URL.", show_default=False),
]
Layers = Annotated[
    list[str] | None,
    option("--layer", "-l", metavar="GLOB", help="Only layers whose name matches; repeatable."),
]
Heads = Annotated[
    list[str] | None,
    option(
        "--heads",
        metavar="[GLOB=]N[/KV]",
        help="The number of heads (and kv heads), of all layers or those that match; repeatable.",
    ),
]
Layouts = Annotated[
    list[str] | None,
    option(
        "--layout",
        metavar="[GLOB=]ID|{ROW}",
        help="The layout of all layers or those that match, or a row that describes one; repeatable.",
    ),
]
Config = Annotated[
    str | None,
    option("--config", metavar="FILE", help="Hyper-parameters (JSON or YAML) to trust before any others."),
]
Limits = Annotated[
    list[str] | None,
    option("--limit", metavar="NAME=N", help="Allow a file more than usual: header=200MB, tensors=1M ...; repeatable."),
]
Rotary = Annotated[
    str | None,
    option(
        "--rotary",
        metavar="PAIRS",
        help="Rows of a head that a rotary embedding turns together: none, halves, neighbours, or halves:32.",
        show_default=False,
    ),
]
Base = Annotated[
    str | None,
    option("--base", metavar="PATH", help="The model that PATH, a LoRA adapter, is added to."),
]
Container = Annotated[
    str | None,
    option("--container", metavar="NAME", help="Which state_dict, where the file holds several."),
]

Columns = Annotated[
    list[str] | None,
    option("--column", metavar="KEY[,KEY]", help="Figures besides norms, or only these in trend; repeatable."),
]

Heat = Annotated[
    str | None,
    option("--heat", metavar="COLUMN", help="A picture instead of tables: this figure by layer and head."),
]

Plot = Annotated[
    Path | None,
    option("--plot", metavar="FILE", help="With --heat: draw it into a file: .png, .svg or .pdf."),
]
Output = Annotated[Path | None, option("--output", "-o", metavar="FILE", help="Write the result there, not to stdout.")]

Force = Annotated[bool, option("--force", help="Replace an existing file.")]

Quiet = Annotated[
    bool, option("--quiet", "-q", help="Print warnings and errors only: the exit code or the file is the answer.")
]

Download = Annotated[bool, option("--download", help="Fetch what a URL leads to whole, to a temporary file.")]

AskWeights = Annotated[
    bool,
    option(
        "--evidence/--no-evidence",
        help="Ask the weights where nothing else tells the heads or the layout, and whether they agree; or do not.",
    ),
]

if TYPE_CHECKING:
    Format = str
else:
    Format = StrEnum("Format", [(name, name) for name in WRITERS])

AskFormat = Annotated[Format, option("--format", "-f", help="How to print it.")]
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
    from qkvinspect.layouts.from_settings import is_row, parse, rows
    from qkvinspect.settings import find

    settings = find(Path.cwd())
    given = [text.strip() for text in layouts or []]
    pairs = [text.rpartition("=")[::2] for text in given if not is_row(text)]
    return Options(
        heads=(*settings.heads, *(heads or ())),
        layouts=tuple((glob or "*", id) for glob, id in pairs),
        settled=settings.layouts,
        told=rows(settings.rows, settings.origin),
        told_now=tuple(parse(text) for text in given if is_row(text)),
        layers=tuple(layers or ()),
        norms=norms,
        evidence=evidence,
    )


def listed(values: Sequence[str] | None) -> list[str]:
    """What an option names that takes several at once, between commas, and may be repeated."""
    return [name for value in values or () for name in value.split(",") if name]


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
