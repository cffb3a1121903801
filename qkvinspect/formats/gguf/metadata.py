"""Read the metadata of a GGUF file: numbers and short texts are kept, vocabularies skipped."""

from __future__ import annotations

from struct import calcsize

from qkvinspect.error_codes import Code
from qkvinspect.formats.damaged import damaged
from qkvinspect.formats.gguf.cursor import Cursor

MAX_TEXT = 4096
"""Bytes of the longest text that is kept; templates of chats and licences are longer."""

MAX_LIST = 1024
"""Entries of the longest list of numbers that is kept: one for each layer."""

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
UINT32 = 4

Value = int | float | str | bool | list[int | float | bool]


def read_metadata(cursor: Cursor, count: int) -> tuple[dict[str, Value], dict[str, int]]:
    """The values of the metadata, and the type of each key.

    Raises:
        CheckpointError: it is malformed, or over a limit.
    """
    cursor.limits.check("objects", count, cursor.source.name)
    values: dict[str, Value] = {}
    types: dict[str, int] = {}
    for _ in range(count):
        key = cursor.text("a key of the metadata")
        if key in types:
            raise damaged(cursor.source, Code.GGUF_DUPLICATE, "a key stands in the metadata twice", repr(key)[:80])
        types[key] = kind = cursor.number("I")
        value = _value(cursor, kind)
        if value is not None:
            values[key] = value
    return values, types


def _value(cursor: Cursor, kind: int) -> Value | None:
    """The next value; None for one that is skipped."""
    if kind == _ARRAY:
        return _array(cursor, 1)
    if kind == _STRING:
        return _text(cursor)
    return _number(cursor, kind)


def _number(cursor: Cursor, kind: int) -> int | float | bool:
    if kind == _BOOL:
        return bool(cursor.number("B"))
    return cursor.scalar(_code(cursor, kind))


def _code(cursor: Cursor, kind: int) -> str:
    code = _NUMBERS.get(kind)
    if code is None:
        raise damaged(cursor.source, Code.GGUF_VALUE, "a value of the metadata has an unknown type", str(kind))
    return code


def _text(cursor: Cursor) -> str | None:
    """The next string; None for one that is too long to be kept, or not UTF-8."""
    length = cursor.number("Q")
    if length > MAX_TEXT:
        return cursor.skip(length)
    try:
        return cursor.take(length).decode()
    except UnicodeDecodeError:
        return None


def _array(cursor: Cursor, depth: int) -> list[int | float | bool] | None:
    """The next array, if it is a short one of numbers."""
    cursor.limits.check("depth", depth, cursor.source.name)
    kind, count = cursor.number("I"), cursor.number("Q")
    if kind == _ARRAY:
        cursor.limits.check("objects", count, cursor.source.name)
        for _ in range(count):
            _array(cursor, depth + 1)
    elif kind == _STRING:
        cursor.skip_strings(count)
    elif count > MAX_LIST:
        cursor.skip(count * calcsize("=" + _code(cursor, kind)))
    else:
        _code(cursor, kind)
        return [_number(cursor, kind) for _ in range(count)]
    return None
