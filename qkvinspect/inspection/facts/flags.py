"""The number of heads as a person gives it: --heads."""

from __future__ import annotations

import re

from qkvinspect.errors import UsageError
from qkvinspect.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class HeadFlag:
    """One --heads: ``8``, ``32/8`` (heads/kv heads), or either behind ``GLOB=``."""

    glob: str
    num_heads: int
    num_kv_heads: int | None


def parse_flag(text: str) -> HeadFlag:
    """Read the value of --heads.

    Raises:
        UsageError: it has another form.
    """
    glob, _, count = text.rpartition("=")
    found = re.fullmatch(r"(\d{1,5})(?:/(\d{1,5}))?", count)
    if not found or not int(found[1]) or (found[2] is not None and not int(found[2])):
        raise UsageError(
            f"--heads {text} is not a number of heads",
            expected="N, N/KV, or GLOB=N such as 'decoder.*=8' or '*=32/8'",
        )
    return HeadFlag(glob or "*", int(found[1]), int(found[2]) if found[2] else None)
