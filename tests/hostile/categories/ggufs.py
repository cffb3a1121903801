"""GGUF files that lie, one for each code; tests/formats/test_gguf_hostile.py has many of each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from qkvinspect.error_codes import Code
from tests.hostile.categories.case import Case, Makers, Refused
from tests.hostile.writers.ggufs import F32, Q4_0, UINT16, UINT32, Entry, Value, Writer

_WRITER = Writer()
_DATA = bytes(64)
_A, _B = Entry(b"a", (8,), F32, 0), Entry(b"b", (8,), F32, 32)


def _file(*values: tuple[bytes, Value], entries: tuple[Entry, ...] = (_A, _B), version: int = 3) -> bytes:
    return _WRITER.file(_WRITER.header(values, entries, version=version), _DATA)


def liars() -> Iterator[Case]:
    number = partial(_WRITER.scalar, UINT32)
    split = ((b"split.no", _WRITER.scalar(UINT16, 0)), (b"split.count", _WRITER.scalar(UINT16, 2)))
    files = {
        Code.GGUF_VERSION: _file(version=1),
        Code.GGUF_TRUNCATED: _file()[:40],
        Code.GGUF_TEXT: _file((b"\xff", number(1))),
        Code.GGUF_VALUE: _file((b"k", Value(99, b""))),
        Code.GGUF_DUPLICATE: _file((b"k", number(1)), (b"k", number(1))),
        Code.GGUF_ALIGNMENT: _file((b"general.alignment", number(0))),
        Code.GGUF_SHAPE: _file(entries=(Entry(b"a", (8,), Q4_0, 0),)),
        Code.GGUF_TYPE: _file(entries=(Entry(b"a", (8,), 4, 0),)),
        Code.GGUF_RANGE: _file(entries=(_A, Entry(b"b", (8,), F32, 1 << 62))),
        Code.GGUF_HOLE: _file(entries=(_B,)),
        Code.GGUF_OVERLAP: _file(entries=(_A, Entry(b"b", (8,), F32, 16))),
        Code.GGUF_SPLIT: _file(*split),
    }
    for code, data in files.items():
        yield Case(f"GGUF: {code.name}", partial(bytes, data), Refused(code))


MAKERS: Makers = {113: liars}
TRUSTED: dict[int, str] = {}
