"""A JSON parser for untrusted files: UTF-8 only, no duplicate names, no NaN or Infinity."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from qkvinspect.formats.limits import Limits


class DuplicateError(ValueError):
    """A name stands twice in one object, so that readers differ in what it means."""


Pairs = list[tuple[str, object]]


def loads(data: bytes, file: str, limits: Limits, made: Callable[[dict[str, object]], object] | None = None) -> object:
    """Parse ``data``.

    Args:
        made: what becomes of each object, as soon as it is parsed.

    Raises:
        ValueError: it is not such JSON; the message says why.
        CheckpointError: it would make more objects than the limit.
    """
    limits.check("objects", data.count(b"{") + data.count(b"["), file)

    def hook(pairs: Pairs) -> object:
        values = dict(pairs)
        if len(values) != len(pairs):
            raise _twice(pairs)
        return values if made is None else made(values)

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=hook, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _twice(pairs: Pairs) -> DuplicateError:
    names = Counter(name for name, _ in pairs)
    return DuplicateError(f"{names.most_common(1)[0][0]!r} stands in it twice")


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")
