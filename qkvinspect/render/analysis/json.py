"""JSON: the contract of analysis.schema.json."""

from __future__ import annotations

import json

from qkvinspect.analysis import Analysis
from qkvinspect.render.view import ViewOptions

NAME = "json"


def render(analysis: Analysis, view: ViewOptions) -> str:
    """One object, indented."""
    return json.dumps(analysis.to_dict(), indent=2) + "\n"
