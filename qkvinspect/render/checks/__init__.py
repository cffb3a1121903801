"""How the results of checks are written. A new form is one module here and one line in CHECK_RENDERERS."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qkvinspect.checks.result import Checked
    from qkvinspect.render.view import ViewOptions


class CheckRenderer(Protocol):
    """What every module in CHECK_RENDERERS offers."""

    NAME: str

    def render(self, checked: Sequence[Checked], view: ViewOptions) -> str: ...


CHECK_RENDERERS: tuple[str, ...] = ("text", "json", "junit", "github", "sarif")
"""Names of forms, and of the modules here that write them; imported when first used."""


def check_renderer(name: str) -> CheckRenderer:
    """The renderer of one of CHECK_RENDERERS."""
    assert name in CHECK_RENDERERS
    return import_module(f"qkvinspect.render.checks.{name}")  # pyright: ignore[reportReturnType]
