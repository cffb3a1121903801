"""Files that somebody may have meant whose name is mistyped."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from qkvinspect.errors import did_you_mean

_MOST = 10_000
"""Names of a folder that are looked at."""


def suggestion(path: Path) -> str | None:
    """``did you mean model.pt?``, where something beside it, or beside the first folder that is missing, is alike."""
    from difflib import get_close_matches

    missing = path
    try:
        while missing != missing.parent and not missing.parent.is_dir():
            missing = missing.parent
        with os.scandir(missing.parent) as entries:
            names = [entry.name for entry in islice(entries, _MOST)]
    except (OSError, ValueError):
        return None
    near = get_close_matches(missing.name, names, n=2, cutoff=0.75)
    return did_you_mean([str(missing.parent / name) for name in near])
