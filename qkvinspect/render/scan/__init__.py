"""Files that ``scan`` writes. A new kind is one module here, what imports it, and its line in SCAN_WRITERS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from qkvinspect.errors import UsageError
from qkvinspect.scans.rows import Scanned


class ScanWriter(Protocol):
    """What every module in SCAN_WRITERS offers."""

    def write(self, scanned: Iterable[Scanned], fields: Sequence[str], file: BinaryIO) -> None:
        """Write the rows of all checkpoints, one checkpoint after another."""
        ...

    def require(self) -> None:
        """Make sure that what it takes is installed.

        Raises:
            UsageError: it is not.
        """
        ...


def _jsonl() -> ScanWriter:
    from qkvinspect.render.scan import jsonl

    return jsonl


def _csv() -> ScanWriter:
    from qkvinspect.render.scan import csv

    return csv


def _parquet() -> ScanWriter:
    from qkvinspect.render.scan import parquet

    return parquet


SCAN_WRITERS: Mapping[str, Callable[[], ScanWriter]] = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}
"""Suffixes of files, and what imports the module here that writes them."""


def scan_writer(out: Path) -> ScanWriter:
    """The writer for a file of that name.

    Raises:
        UsageError: the suffix is not known, or what it takes is not installed.
    """
    load = SCAN_WRITERS.get(out.suffix.removeprefix("."))
    if load is None:
        raise UsageError("cannot be written", file=str(out), expected=".jsonl, .csv or .parquet")
    writer = load()
    writer.require()
    return writer
