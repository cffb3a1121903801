"""JSON: the contract of the schemas beside this package's results."""

from __future__ import annotations

import json

from qkvinspect.render.document import Document
from qkvinspect.render.view import ViewOptions


def write(document: Document, view: ViewOptions) -> str:
    """One value, indented; numbers that are not finite are texts in it already."""
    return text(document.data())


def text(value: object) -> str:
    """JSON that no runner of CI obeys: GitHub's takes ``##[`` for a command wherever it stands in a line."""
    return json.dumps(value, indent=2, allow_nan=False).replace("##[", r"#\u0023[") + "\n"
