"""Numbers and strings as older protocols write them, and integers of any length."""

from __future__ import annotations

from codecs import escape_decode  # pyright: ignore[reportUnknownVariableType, reportAttributeAccessIssue]

from qkvinspect.error_codes import Code
from qkvinspect.formats.pickle.keys import MalformedError
from qkvinspect.formats.pickle.machine import Machine

_MAX_LONG = 256


def long(machine: Machine, length: int) -> None:
    if length > _MAX_LONG:
        raise MalformedError(Code.LIMIT_INTEGER, f"an integer of {length} bytes")
    machine.push(int.from_bytes(machine.take(length), "little", signed=True))


def text_int(machine: Machine) -> None:
    text = machine.line()
    machine.push(text == b"01" if text in (b"00", b"01") else text_number(text, 0))


def text_long(machine: Machine) -> None:
    machine.push(text_number(machine.line().removesuffix(b"L"), 0))


def text_string(machine: Machine) -> None:
    text = machine.line()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise MalformedError(Code.PICKLE_STRING, "a string is not quoted")
    raw, _ = escape_decode(text[1:-1])
    machine.push(raw.decode("latin-1"))


def text_number(text: bytes, base: int = 10) -> int:
    if len(text) > _MAX_LONG:
        raise MalformedError(Code.LIMIT_INTEGER, f"an integer of {len(text)} digits")
    return int(text, base)
