"""The JSON contract of check.schema.json."""

from __future__ import annotations

import json
from collections.abc import Sequence

from qkvinspect.checks.result import Checked, to_dict
from qkvinspect.render.view import ViewOptions

NAME = "json"


def render(checked: Sequence[Checked], view: ViewOptions) -> str:
    """All of them, and a summary."""
    return json.dumps(to_dict(checked), indent=2, ensure_ascii=True, allow_nan=False) + "\n"
