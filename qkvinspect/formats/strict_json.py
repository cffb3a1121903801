"""A JSON parser for untrusted files: UTF-8 only, no duplicate names, no NaN or Infinity."""

from __future__ import annotations

import json
from collections import Counter

from qkvinspect.formats.limits import Limits


class DuplicateError(ValueError):
    """A name stands twice in one object, so that readers differ in what it means."""


def loads(data: bytes, file: str, limits: Limits) -> object:
    """Parse ``data``.

    Raises:
        ValueError: it is not such JSON; the message says why.
        CheckpointError: it would make more objects than the limit.
    """
    limits.check("objects", data.count(b"{") + data.count(b"["), file)
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = Counter(name for name, _ in pairs)
        raise DuplicateError(f"{names.most_common(1)[0][0]!r} stands in it twice")
    return made


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")
