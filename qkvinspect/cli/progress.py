"""A progress bar on stderr, for work that takes over a second, in terminals only."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from qkvinspect.cli import streams

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE = 1.0
"""Seconds before a bar appears."""

_PAUSE = 0.1
"""Seconds between two looks of it: work tells of every half megabyte."""


class Bar:
    """Shows bytes, speed and the time that is left; disappears when the work is done.

    Args:
        unit: what is counted instead of bytes.
    """

    def __init__(self, what: str, unit: str | None = None) -> None:
        self._what = what
        self._unit = unit
        self._due = time.monotonic() + _PATIENCE
        self._terminal = sys.stderr.isatty() and not streams.quiet()
        self._shown: tuple[Progress, TaskID] | None = None
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def advance(self, done: int, total: int) -> None:
        """Show how much of the total is done."""
        now = time.monotonic()
        if not self._terminal or now < self._due:
            return
        self._due = now + _PAUSE
        if self._shown is None:
            self._shown = self._show(total)
        progress, task = self._shown
        progress.update(task, completed=done)

    def _show(self, total: int) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        counted = (
            (MofNCompleteColumn(), TextColumn(self._unit)) if self._unit else (DownloadColumn(), TransferSpeedColumn())
        )
        columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn())
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._resources.enter_context(progress)
        return progress, progress.add_task(self._what, total=total)
