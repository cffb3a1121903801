"""Output formats of ``trend``. A new one is one module here and one line in TREND_RENDERERS."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qkvinspect.render.view import ViewOptions
    from qkvinspect.scans.trend import Trend


class TrendRenderer(Protocol):
    """What every module in TREND_RENDERERS offers."""

    NAME: str

    def render(self, trend: Trend, view: ViewOptions) -> str: ...


TREND_RENDERERS: tuple[str, ...] = ("table", "chart", "json", "csv", "markdown")
"""Names of formats, and of the modules here that write them; imported when first used."""


def trend_renderer(name: str) -> TrendRenderer:
    """The renderer of one of TREND_RENDERERS."""
    assert name in TREND_RENDERERS
    return import_module(f"qkvinspect.render.trend.{name}")  # pyright: ignore[reportReturnType]
