"""Comma-separated values: the records of a document, every figure in full."""

from __future__ import annotations

import csv
from io import StringIO

from qkvinspect.render.document import Document
from qkvinspect.render.text import clean
from qkvinspect.render.view import ViewOptions


def write(document: Document, view: ViewOptions) -> str:
    """A line with the names of the columns, and the rows; an empty cell is what cannot be said."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for record in document.records():
        writer.writerow(harmless(cell) if isinstance(cell, str) else cell for cell in record)
    return out.getvalue()


def harmless(cell: str) -> str:
    """No control characters, and nothing that a spreadsheet would run as a formula."""
    cell = clean(cell)
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell
