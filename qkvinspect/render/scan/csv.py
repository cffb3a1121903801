"""Comma-separated values; an empty cell is what cannot be said."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import BinaryIO

from qkvinspect.render.writers.csv import harmless
from qkvinspect.scans.rows import TEXTS, Scanned


def require() -> None:
    """Nothing."""


def write(scanned: Iterable[Scanned], fields: Sequence[str], file: BinaryIO) -> None:
    """A line with the names of the fields, and the rows."""
    text = TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(fields)
    for one in scanned:
        for line in one.rows().splitlines():
            row = json.loads(line)
            writer.writerow(harmless(row[key]) if key in TEXTS and row[key] else row[key] for key in fields)
    text.detach()
