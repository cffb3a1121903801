"""Output formats of ``diff``. A new one is one module here and one line in DIFFERENCE_RENDERERS."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qkvinspect.diff.difference import Difference
    from qkvinspect.render.view import ViewOptions


class DifferenceRenderer(Protocol):
    """What every module in DIFFERENCE_RENDERERS offers."""

    NAME: str

    def render(self, difference: Difference, view: ViewOptions) -> str: ...


DIFFERENCE_RENDERERS: tuple[str, ...] = ("table", "json", "markdown")
"""Names of formats, and of the modules here that write them; imported when first used."""


def difference_renderer(name: str) -> DifferenceRenderer:
    """The renderer of one of DIFFERENCE_RENDERERS."""
    assert name in DIFFERENCE_RENDERERS
    return import_module(f"qkvinspect.render.difference.{name}")  # pyright: ignore[reportReturnType]
