"""Files that ``scan`` writes. A new kind is one module here and one line in SCAN_WRITERS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, Protocol

from qkvinspect.errors import UsageError
from qkvinspect.scans.rows import Scanned


class ScanWriter(Protocol):
    """What every module in SCAN_WRITERS offers."""

    NAME: str

    def write(self, scanned: Iterable[Scanned], fields: Sequence[str], file: BinaryIO) -> None:
        """Write the rows of all checkpoints, one checkpoint after another."""
        ...

    def require(self) -> None:
        """Make sure that what it takes is installed.

        Raises:
            UsageError: it is not.
        """
        ...


SCAN_WRITERS: tuple[str, ...] = ("jsonl", "csv", "parquet")
"""Suffixes of files, and names of the modules here that write them."""


def scan_writer(out: Path) -> ScanWriter:
    """The writer for a file of that name.

    Raises:
        UsageError: the suffix is not known, or what it takes is not installed.
    """
    name = out.suffix.removeprefix(".")
    if name not in SCAN_WRITERS:
        raise UsageError(
            "cannot be written", file=str(out), expected=".jsonl, .csv or .parquet", found=out.suffix or None
        )
    writer: ScanWriter = import_module(f"qkvinspect.render.scan.{name}")  # pyright: ignore[reportAssignmentType]
    writer.require()
    return writer
