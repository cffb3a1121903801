"""Where reports may go: never over what is read, and over nothing at all without --force."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


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

    require_free(target, force=force, inputs=(Path(one) for one in inputs if one is not None))
    if target.exists() and (target.name in USUAL or target.name.endswith((*SUFFIXES, ".index.json", ".metadata"))):
        raise UsageError("is a part of a model, by its name", file=str(target), hint="give another name")
