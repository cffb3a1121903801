"""The commands, in the order in which the help lists them: each is a function of that name in a module of that name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

COMMANDS = (
    "show",
    "explain",
    "analyze",
    "export",
    "check",
    "diff",
    "lineage",
    "scan",
    "trend",
    "pack",
    "convert",
    "report",
    "layouts",
    "browse",
)


def command(name: str) -> Callable[..., None]:
    """The function that is called for a command; its module is imported now."""
    return getattr(import_module(f"qkvinspect.cli.{name}"), name)
