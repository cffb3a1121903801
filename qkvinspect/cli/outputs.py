"""Where reports may go: never over what is read, and over nothing at all without --force."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_PARTS = (".index.json", ".metadata")


def require_output(target: Path | None, inputs: Iterable[str | Path | None], *, force: bool) -> None:
    """Refuse, before any work, a file that is there; with ``force`` only one that is read or is a part of a model.

    A checkpoint is several files, and which of them are read is known only when it is open: so nothing that is
    called as a checkpoint, its index or its config is ever replaced by a report.

    Raises:
        UsageError: it may not be written there.
    """
    if target is None:
        return
    from qkvinspect.atomic import require_free
    from qkvinspect.errors import UsageError
    from qkvinspect.formats.configs import USUAL
    from qkvinspect.formats.directory import SUFFIXES

    require_free(target, force=force, given=(Path(one) for one in inputs if one is not None))
    named = (target.name, os.path.basename(os.path.realpath(target)))  # noqa: PTH119
    if target.exists() and any(one in USUAL or one.endswith((*SUFFIXES, *_PARTS)) for one in named):
        raise UsageError("is a part of a model, by its name", file=str(target), hint="give another name")


def require_scanned(target: Path, journal: Path, patterns: Iterable[str], config: str | None, *, force: bool) -> None:
    """The same of what a scan writes, whose inputs other processes open.

    Raises:
        UsageError: it may not be written there, or nothing has such a name as is to be scanned.
    """
    if target.exists() or journal.exists():
        from qkvinspect import inputs
        from qkvinspect.atomic import require_regular, require_unread
        from qkvinspect.formats.expand import expand

        inputs.note_around(expand(patterns, existing=True), target)
        require_unread(journal)
        for one in (target, journal):
            require_regular(one)  # what is found is kept in files
    require_output(target, (config,), force=force)
