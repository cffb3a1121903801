"""The JSON contract of report.schema.json."""

from __future__ import annotations

import json

from qkvinspect.inspection.report import Report
from qkvinspect.render.view import ViewOptions

NAME = "json"


def render(report: Report, view: ViewOptions) -> str:
    """The whole report; per-head numbers are always in it, all tensors where they were asked for."""
    return json.dumps(report.to_dict(tensors=view.tensors), indent=2, ensure_ascii=True, allow_nan=False) + "\n"
