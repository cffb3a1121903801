"""A YAML parser for untrusted files: it counts events before it builds anything.

A few bytes of YAML can expand to gigabytes: an alias stands for all that its anchor holds, a merge copies it, and a
number may have as many digits as the file has bytes. So the parser's events are counted first, those of an alias as
often as it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qkvinspect.late_pattern import late_pattern
from qkvinspect.parsed import is_mapping, with_text_keys

MAX_VALUES = 50_000
"""Keys, values and what aliases stand for, in one file; a config with 20,000 labels has fewer."""

MAX_DEPTH = 64
MAX_DIGITS = 100
"""Characters of one number; a float that is written out exactly has about 60."""

_NUMBER = late_pattern(r"[-+]?(?:0[bxBX][0-9a-fA-F_]+|[0-9_.:eE+-]+)")
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def loads(data: bytes) -> object:
    """Parse ``data`` as plain values: mappings by text, lists, texts, numbers, dates.

    Raises:
        ValueError: it is no such YAML, or asks for more than the limits; the message says why.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _count(yaml.parse(data, loader))
        values = yaml.load(data, loader)
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        ArithmeticError,
    ) as error:
        raise ValueError(str(error)) from error
    return with_text_keys(values) if is_mapping(values) else values


def _count(events: Iterator[Any]) -> None:
    """Refuse documents that expand beyond the limits."""
    import yaml

    sizes: dict[str, int] = {}
    open: list[tuple[str | None, int]] = []
    total = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            total += _size_of_alias(str(event.anchor), sizes)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            _check_digits(event)
            _note(sizes, event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open.append((event.anchor, total))
            total += 1
            if len(open) > MAX_DEPTH:
                raise ValueError(f"it is nested too deeply (over {MAX_DEPTH} levels)")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open.pop()
            _note(sizes, anchor, total - before)
        if total > MAX_VALUES:
            raise ValueError(f"it stands for too many values (over {MAX_VALUES}, those of aliases included)")


def _note(sizes: dict[str, int], anchor: str | None, size: int) -> None:
    if anchor is not None:
        sizes[anchor] = size


def _size_of_alias(anchor: str | None, sizes: dict[str, int]) -> int:
    name = anchor or ""
    if name not in sizes:
        raise ValueError(f"the alias {name[:40]!r} stands for nothing, or for what it is a part of")
    return sizes[name]


def _check_digits(event: Any) -> None:
    if len(event.value) > MAX_DIGITS and (
        event.tag in _NUMBER_TAGS or (event.implicit[0] and _NUMBER.fullmatch(event.value))
    ):
        raise ValueError(f"a number has over {MAX_DIGITS} digits")
