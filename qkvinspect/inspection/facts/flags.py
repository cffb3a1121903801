"""The number of heads as a person gives it: --heads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from qkvinspect.errors import UsageError, did_you_mean
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding


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


def unused(flags: Sequence[HeadFlag], layers: Iterable[str]) -> Iterator[Finding]:
    """A finding for each flag whose glob names none of the attention modules: a slip, or meant for another file.

    Args:
        layers: the names of all attention modules; not looked at where every flag is for all of them.
    """
    some = [flag for flag in flags if flag.glob != "*"]
    names = list(layers) if some else []
    for flag in some:
        if names and not any(fnmatchcase(name, flag.glob) for name in names):
            from difflib import get_close_matches

            near = did_you_mean(get_close_matches(flag.glob, names, n=2)) or f"the first is called {names[0]}"
            text = f"{flag.num_heads} heads for {flag.glob!r}: no attention module has such a name; {near}"
            yield Finding(FindingCode.HEADS_UNUSED, text)
