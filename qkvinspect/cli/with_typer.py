"""typer's view of the command line: for help, for mistakes, and for whatever ``plain`` leaves to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from qkvinspect.cli.commands import COMMANDS, command
from qkvinspect.cli.declared import Declared
from qkvinspect.version import __version__


def _as_typer_has_it(function: Callable[..., None]) -> Callable[..., None]:
    """The command with typer's own options and arguments in the place of those that were declared."""
    assert isinstance(function, FunctionType)
    one = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    one.__doc__, one.__module__ = function.__doc__, function.__module__
    hints = get_type_hints(function, include_extras=True)
    one.__annotations__ = {name: _converted(hint) for name, hint in hints.items()}
    return one


def _converted(hint: Any) -> Any:
    if get_origin(hint) is not Annotated:
        return hint
    kind, *told = get_args(hint)
    settings = [_parameter(one) if isinstance(one, Declared) else one for one in told]
    return Annotated[(kind, *settings)]


def _parameter(one: Declared) -> Any:
    settings: dict[str, Any] = dict(one.settings)
    return typer.Option(*one.names, **settings) if one.names else typer.Argument(**settings)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"qkvinspect {__version__}")
        raise typer.Exit


def _root(
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


def _app(functions: Iterable[Callable[..., None]]) -> typer.Typer:
    made = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    made.callback()(_root)
    for function in functions:
        made.command()(function)
    return made


def asked(words: Sequence[str]) -> typer.Typer:
    """As much of the command line as these words need: to build all commands would take 15 to 81 ms more."""
    if list(words) in ([], ["--help"], ["-h"]):
        return _app(_named(command(name)) for name in COMMANDS)
    names = [name for name in COMMANDS if [name] == words[:1]] or COMMANDS
    return _app(_as_typer_has_it(command(name)) for name in names)


def _named(function: Callable[..., None]) -> Callable[..., None]:
    """A command by name and description, which is all that the list of them shows: their options would take 30 ms."""

    def described() -> None: ...

    described.__name__, described.__doc__ = function.__name__, function.__doc__
    return described


def whole() -> typer.Typer:
    """All commands with all that they take."""
    return _app(_as_typer_has_it(command(name)) for name in COMMANDS)
