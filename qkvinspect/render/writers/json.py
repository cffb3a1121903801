"""JSON: the contract of the schemas beside this package's results."""

from __future__ import annotations

import json

from qkvinspect.render.document import Document
from qkvinspect.render.view import ViewOptions


def write(document: Document, view: ViewOptions) -> str:
    """One value, indented; numbers that are not finite are texts in it already."""
    return json.dumps(document.data(), indent=2, allow_nan=False) + "\n"
