"""The command line: parse, call the core, render, exit code. The only printer and the only catcher.

A command is one module here and its name in ``commands``. Nothing heavy is imported until a command runs, and typer
only for lines that ``plain`` cannot read.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, NoReturn

from qkvinspect.cli import startup  # before all others

# isort: split
from qkvinspect import inputs
from qkvinspect.cli import plain, printing
from qkvinspect.cli.commands import COMMANDS, command
from qkvinspect.cli.declared import Exit
from qkvinspect.cli.printing import ReaderGone
from qkvinspect.cli.streams import forgive_stderr, open_closed, replace_unencodable
from qkvinspect.errors import QkvInspectError, clean, did_you_mean, without_secrets
from qkvinspect.version import __version__

if TYPE_CHECKING:
    import typer

    app: typer.Typer

_CATCHABLE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run() -> NoReturn:
    """What the system starts: ``main`` in a process of its own, which ends at once."""
    open_closed()
    forgive_stderr()
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
    try:
        code = copy_context().run(_called, words)
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


def _called(words: list[str]) -> object:
    """What a command line does; its exit code, if it says one."""
    inputs.begin()
    if words == ["--version"]:  # at once: typer is not needed
        printing.say(f"qkvinspect {__version__}\n")
        return 0
    try:
        if words and words[0] in COMMANDS:
            named = command(words[0])
            given = plain.call(named, words[1:])
            if given is not None:
                return named(**given)
        from qkvinspect.cli.with_typer import asked

        return asked(words)(args=words, prog_name="qkvinspect", standalone_mode=False)
    except Exit as exit:
        return exit.code


def __getattr__(name: str) -> object:
    """``app`` as typer has it, whose import takes as long as a short command."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from qkvinspect.cli.with_typer import whole

    globals()["app"] = made = whole()
    return made


def _misused(said: str, context: typer.Context | None) -> int:
    """What typer says of a command line; without a command that is the help."""
    if "\n" in said:
        print(without_secrets(said), file=sys.stderr)
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
    print(f"error: {without_secrets(message)}", file=sys.stderr)
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
