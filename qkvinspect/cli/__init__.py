"""The command line: parse, call the core, render, exit code. The only printer and the only catcher.

A command is one module here and one line in ``app``. Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Annotated, NoReturn

import typer

from qkvinspect.cli import startup
from qkvinspect.cli.analyze import analyze
from qkvinspect.cli.browse import browse
from qkvinspect.cli.check import check
from qkvinspect.cli.convert import convert
from qkvinspect.cli.diff import diff
from qkvinspect.cli.explain import explain
from qkvinspect.cli.export import export
from qkvinspect.cli.layouts import layouts
from qkvinspect.cli.lineage import lineage
from qkvinspect.cli.pack import pack
from qkvinspect.cli.printing import ReaderGone
from qkvinspect.cli.report import report
from qkvinspect.cli.scan import scan
from qkvinspect.cli.show import show
from qkvinspect.cli.streams import replace_unencodable
from qkvinspect.cli.trend import trend
from qkvinspect.errors import QkvInspectError, clean, did_you_mean
from qkvinspect.version import __version__

_CATCHABLE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(show)
app.command()(explain)
app.command()(analyze)
app.command()(export)
app.command()(check)
app.command()(diff)
app.command()(lineage)
app.command()(scan)
app.command()(trend)
app.command()(pack)
app.command()(convert)
app.command()(report)
app.command()(layouts)
app.command()(browse)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"qkvinspect {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Inspect the attention inside PyTorch checkpoints: which rows are Q, K and V of which head.

    Checkpoints are never trusted: nothing that a file names is imported or run.

    Examples:

    \b
      qkvinspect show model.pt
      qkvinspect explain model.pt encoder.layers.0.self_attn --verify
      qkvinspect analyze model.pt --sort logit_bound --top 10
      qkvinspect export model.pt -o qkv.safetensors
      qkvinspect check model.pt
      qkvinspect diff before.pt after.safetensors
      qkvinspect lineage base.safetensors release/
      qkvinspect scan 'run/**/*.pt' -o run.jsonl
      qkvinspect trend run.jsonl

    Exit status:

    \b
      0  fine
      1  findings or differences
      2  the input or the command line cannot be used
    """


def run() -> NoReturn:
    """What the system starts: ``main`` in a process of its own, which ends at once."""
    startup.prepare(sys.argv[1:])
    replace_unencodable()
    try:
        code = main()
    except Exception as error:  # a fault of ours: exit code 1 would say that findings or differences were found
        code = _fail(_unexpected(error), 2)
    startup.leave(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors become one line on stderr."""
    _leave_on_signals()
    words = list(sys.argv[1:] if argv is None else argv)
    command = startup.only_asked(app, words)
    try:
        code = copy_context().run(command, args=words, prog_name="qkvinspect", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    except QkvInspectError as error:
        return _fail(str(error), 2)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return _fail("this needs torch, which is not installed; pip install torch", 2)
    except (BrokenPipeError, ReaderGone):
        _silence_stdout()  # whoever read us has enough
        return 128 + signal.SIGPIPE
    except OSError as error:
        _silence_stdout()
        return _fail(f"the output cannot be written: {error.strerror}", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)
    except Exception as error:
        said = getattr(error, "format_message", None)
        if said is None:
            raise
        return _misused(str(said()), getattr(error, "ctx", None))
    return code if isinstance(code, int) else 0


def _misused(said: str, context: typer.Context | None) -> int:
    """What typer says of a command line; without a command that is the help."""
    if "\n" in said:
        print(said, file=sys.stderr)
        return 2
    command = context.command_path if context else "qkvinspect"
    said, _, options = clean(said[:1].lower() + said[1:].rstrip(".")).partition(" (Possible options: ")
    said = said.replace(". Did you mean", "; did you mean")
    near = f"; {did_you_mean(options.rstrip(')').split(', '))}" if options else ""
    said = f"{said}{near}"
    return _fail(f"{said}{' ' if said.endswith('?') else '; '}`{command} --help` has examples", 2)


def _silence_stdout() -> None:
    """What is left in its buffer must not fail a second time at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected(error: Exception) -> str:
    """A fault of this program in one line, with the place where it happened."""
    import traceback

    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(where.filename)}:{where.lineno}"  # noqa: PTH119
    said = f"unexpected {type(error).__name__} in {place}: {clean(str(error))[:300]}"
    return f"{said}; this is a fault of qkvinspect: please report it"


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def _leave(number: int, _: object) -> None:
    for other in _CATCHABLE:
        signal.signal(other, signal.SIG_IGN)  # a second one must not stop the cleaning up
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _leave_on_signals() -> None:
    """Leave through ``finally`` blocks, so that no temporary file stays behind."""
    with suppress(ValueError):  # not the main thread: the host program handles its signals
        for number in _CATCHABLE:
            signal.signal(number, _leave)
