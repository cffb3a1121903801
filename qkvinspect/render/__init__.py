"""Output formats. A new one is one module here and one line in RENDERERS."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qkvinspect.inspection.report import Report
    from qkvinspect.render.view import ViewOptions


class Renderer(Protocol):
    """What every module in RENDERERS offers."""

    NAME: str

    def render(self, report: Report, view: ViewOptions) -> str: ...


RENDERERS: tuple[str, ...] = ("table", "json", "csv", "markdown")
"""Names of formats, and of the modules here that write them; imported when first used."""


def renderer(name: str) -> Renderer:
    """The renderer of one of RENDERERS."""
    assert name in RENDERERS
    return import_module(f"qkvinspect.render.{name}")  # pyright: ignore[reportReturnType]
