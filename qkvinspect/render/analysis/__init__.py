"""Output formats of ``analyze``. A new one is one module here and one line in ANALYSIS_RENDERERS."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qkvinspect.analysis import Analysis
    from qkvinspect.render.view import ViewOptions


class AnalysisRenderer(Protocol):
    """What every module in ANALYSIS_RENDERERS offers."""

    NAME: str

    def render(self, analysis: Analysis, view: ViewOptions) -> str: ...


ANALYSIS_RENDERERS: tuple[str, ...] = ("table", "json", "csv", "markdown")
"""Names of formats, and of the modules here that write them; imported when first used."""


def analysis_renderer(name: str) -> AnalysisRenderer:
    """The renderer of one of ANALYSIS_RENDERERS."""
    assert name in ANALYSIS_RENDERERS
    return import_module(f"qkvinspect.render.analysis.{name}")  # pyright: ignore[reportReturnType]
