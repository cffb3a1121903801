"""The rarer opcodes, from CPython's Lib/pickletools.py. INST, OBJ, PERSID and EXT* have no place here."""

from __future__ import annotations

import struct
from collections.abc import Callable

from qkvinspect.formats.pickle.machine import Machine
from qkvinspect.formats.pickle.texts import long, text_int, text_long, text_number, text_string

_U8, _U16, _U32, _U64 = (struct.Struct(code) for code in ("<B", "<H", "<I", "<Q"))
_I32, _F64 = struct.Struct("<i"), struct.Struct(">d")
_Step = Callable[[Machine], object]


def _text(length: struct.Struct) -> _Step:
    return lambda r: r.push(r.take(r.number(length)).decode("utf-8", "surrogatepass"))


def _bytes(length: struct.Struct) -> _Step:
    return lambda r: r.push(r.take(r.number(length)))


def _latin(length: struct.Struct) -> _Step:
    """Python 2 strings: text in practice, bytes in principle."""
    return lambda r: r.push(r.take(r.number(length)).decode("latin-1"))


def _constant(value: object) -> _Step:
    return lambda r: r.push(value)


_TABLE: dict[bytes, _Step] = {
    b"\x80": Machine.protocol,
    b"\x95": Machine.frame,
    b"0": Machine.pop_any,
    b"1": Machine.pop_mark,
    b"2": Machine.dup,
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"M": lambda r: r.push(r.number(_U16)),
    b"J": lambda r: r.push(r.number(_I32)),
    b"G": lambda r: r.push(r.number(_F64)),
    b"I": text_int,
    b"L": text_long,
    b"F": lambda r: r.push(float(r.line())),
    b"\x8a": lambda r: long(r, r.number(_U8)),
    b"\x8b": lambda r: long(r, r.number(_U32)),
    b"\x8c": _text(_U8),
    b"\x8d": _text(_U64),
    b"V": lambda r: r.push(r.line().decode("raw_unicode_escape")),
    b"S": text_string,
    b"U": _latin(_U8),
    b"T": _latin(_U32),
    b"C": _bytes(_U8),
    b"B": _bytes(_U32),
    b"\x8e": _bytes(_U64),
    b"\x96": _bytes(_U64),
    b"\x87": Machine.tuple_of_three,
    b"]": lambda r: r.push([]),
    b"l": lambda r: r.push(r.pop_mark()),
    b"a": lambda r: r.append([r.pop()]),
    b"e": lambda r: r.append(r.pop_mark()),
    b"d": Machine.make_dict,
    b"s": lambda r: r.set_items([r.pop(), r.pop()][::-1]),
    b"u": lambda r: r.set_items(r.pop_mark()),
    b"\x8f": Machine.make_set,
    b"\x90": Machine.add_items,
    b"\x91": Machine.make_frozenset,
    b"c": Machine.text_global,
    b"\x93": Machine.stack_global,
    b"\x81": Machine.new_object,
    b"\x92": Machine.new_object_ex,
    b"b": Machine.build,
    b"Q": Machine.refer,
    b"g": lambda r: r.get(text_number(r.line())),
    b"p": lambda r: r.put(text_number(r.line())),
    b"\x94": Machine.memoize,
}
STEPS: list[_Step | None] = [_TABLE.get(bytes([code])) for code in range(256)]
