"""The JSON contract of trend.schema.json."""

from __future__ import annotations

import json

from qkvinspect.render.view import ViewOptions
from qkvinspect.scans.trend import Trend

NAME = "json"


def render(trend: Trend, view: ViewOptions) -> str:
    """One object, indented."""
    return json.dumps(trend.to_dict(), indent=2, allow_nan=False) + "\n"
