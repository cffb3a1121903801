"""What the commands take, told in typer's words without importing typer, which takes longer than a small file to show.

``plain`` reads most command lines by these declarations alone. For help, mistakes and everything that is not plain,
``with_typer`` hands the same declarations to typer, whose parameters are described at ``typer.Option``.
"""

from __future__ import annotations


class Declared:
    """An option or an argument of a command, in an ``Annotated``.

    Attributes:
        names: those of an option, as the user types them; an argument has none.
        settings: what typer is told besides: help, metavar and so on.
    """

    __slots__ = ("names", "settings")

    def __init__(self, names: tuple[str, ...], settings: dict[str, object]) -> None:
        self.names = names
        self.settings = settings


class Exit(Exception):  # noqa: N818
    """Ends a command with an exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def option(*names: str, **settings: object) -> Declared:
    """As ``typer.Option`` within ``Annotated``."""
    return Declared(names, settings)


def argument(**settings: object) -> Declared:
    """As ``typer.Argument`` within ``Annotated``."""
    return Declared((), settings)
