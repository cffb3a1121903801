"""The JSON contract of difference.schema.json."""

from __future__ import annotations

import json

from qkvinspect.diff.difference import Difference
from qkvinspect.render.view import ViewOptions

NAME = "json"


def render(difference: Difference, view: ViewOptions) -> str:
    """The whole difference; per-head numbers are always in it."""
    return json.dumps(difference.to_dict(), indent=2, ensure_ascii=True, allow_nan=False) + "\n"
