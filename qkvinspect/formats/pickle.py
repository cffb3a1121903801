"""An inert reader of pickles: it walks the opcodes and builds plain nodes.

Nothing that the pickle names is imported, called or looked up; a class or function is a Global with two
strings, a call of it a Call that holds its arguments. Plain values become plain Python values.

The opcodes are those of CPython's Lib/pickle.py and Lib/pickletools.py, protocols 0 to 5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from qkvinspect.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Call:
    """What a pickle would have made by calling ``function`` with ``arguments``.

    Attributes:
        state: what BUILD would have set on it; None if nothing.
        items: what would have been appended or added to it.
        entries: what would have been set by key.

    """

    function: object
    arguments: object
    state: object = None
    items: list[object] = field(default_factory=list[object])
    entries: dict[object, object] = field(default_factory=dict[object, object])


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A reference to something outside the pickle: in torch files, a storage."""

    id: object


_ORDERED_DICT = Global("collections", "OrderedDict")
_MAX_LONG = 256
_SCALARS = (str, int, float, bytes, type(None), Global)


def load(data: bytes, where: str) -> object:
    """Read the pickle that ``data`` consists of.

    Args:
        where: the file (and entry) it came from, for error messages.

    Raises:
        CheckpointError: it is malformed, or uses opcodes that no torch file does.

    """
    value, end = load_prefix(data, 0, where)
    if end != len(data):
        raise CheckpointError(
            "has bytes after the pickle's end", file=where, expected=f"{end} bytes", found=f"{len(data)}"
        )
    return value


def load_prefix(data: bytes, start: int, where: str) -> tuple[object, int]:
    """Read one pickle that begins at ``start``; returns its value and the offset behind it."""
    reader = _Reader(data, start, where)
    return reader.run(), reader.position


class _MalformedError(Exception):
    pass


class _Reader:
    """One pass over one pickle: a stack, a stack of marks and a memo."""

    def __init__(self, data: bytes, start: int, where: str) -> None:
        self.data = data
        self.position = start
        self.where = where
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        data, size, table = self.data, len(self.data), _OPCODES
        opcode = -1
        try:
            while self.position < size:
                opcode = data[self.position]
                self.position += 1
                if opcode == _STOP:
                    if len(self.stack) != 1 or self.marks:
                        raise _MalformedError("STOP leaves an unfinished stack")
                    return self.stack[0]
                step = table[opcode]
                if step is None:
                    raise _MalformedError(f"opcode {bytes([opcode])!r} has no place in a checkpoint")
                step(self)
            raise _MalformedError("it ends before its STOP opcode")
        except (_MalformedError, IndexError, struct.error, UnicodeDecodeError, ValueError, KeyError) as error:
            reason = str(error) if isinstance(error, _MalformedError) else _REASONS.get(type(error), str(error))
            raise CheckpointError(
                f"malformed pickle at byte {self.position}: {reason}",
                file=self.where,
                hint="the file is damaged or is not a checkpoint",
            ) from error

    # Reading of arguments.

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise _MalformedError(f"{count} bytes announced, {len(self.data) - self.position} left")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def number(self, format: struct.Struct) -> int:
        (value,) = format.unpack_from(self.data, self.position)
        self.position += format.size
        return value

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise _MalformedError("a line does not end")
        piece = self.data[self.position : end]
        self.position = end + 1
        return piece

    # The stack. Marks keep the outer stacks, as in CPython's unpickler.

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        return self.stack.pop()

    def pop_mark(self) -> list[object]:
        if not self.marks:
            raise _MalformedError("a MARK is missing")
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_any(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    # Memo.

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise _MalformedError(f"memo entry {index} was never stored")
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    # Containers.

    def append(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)  # pyright: ignore[reportUnknownMemberType]
        elif isinstance(target, Call):
            target.items.extend(items)
        else:
            raise _MalformedError(f"items are appended to {_kind(target)}")

    def set_items(self, items: list[object]) -> None:
        if len(items) % 2:
            raise _MalformedError("a key has no value")
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Call) else target
        if not isinstance(entries, dict):
            raise _MalformedError(f"entries are set on {_kind(target)}")
        for index in range(0, len(items), 2):
            entries[_key(items[index])] = items[index + 1]

    def make_dict(self) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    def make_set(self, name: str) -> None:
        items = self.pop_mark() if name == "frozenset" else []
        self.push(Call(Global("builtins", name), (), items=items))

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise _MalformedError("the stack is too short for a tuple")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.push(items)

    # Objects: named, never made.

    def reduce(self) -> None:
        arguments = self.pop()
        self.push(_call(self.pop(), arguments))

    def new_object_ex(self) -> None:
        keywords, arguments = self.pop(), self.pop()
        self.push(_call(self.pop(), (arguments, keywords)))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _MalformedError("a global is not named by two strings")
        self.push(Global(module, name))

    def text_global(self) -> None:
        module = self.line().decode()
        self.push(Global(module, self.line().decode()))

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1]
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):  # an OrderedDict's attributes (_metadata) tell us nothing
            raise _MalformedError(f"state is set on {_kind(target)}")

    def long(self, length: int) -> None:
        if length > _MAX_LONG:
            raise _MalformedError(f"an integer of {length} bytes")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def text_int(self) -> None:
        text = self.line()
        if text in (b"00", b"01"):
            self.push(text == b"01")
        else:
            self.push(_text_number(text))

    def text_long(self) -> None:
        self.push(_text_number(self.line().removesuffix(b"L")))

    def text_string(self) -> None:
        text = self.line()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise _MalformedError("a string is not quoted")
        self.push(text[1:-1].decode("unicode_escape"))

    def protocol(self) -> None:
        version = self.take(1)[0]
        if version > 5:
            raise _MalformedError(f"protocol {version} is not known")

    def dup(self) -> None:
        self.push(self.stack[-1])


def _call(function: object, arguments: object) -> object:
    if function == _ORDERED_DICT and arguments == ():
        return {}
    return Call(function, arguments)


def _key(key: object) -> object:
    """A dict key whose hash cannot recurse without bound."""
    parts = cast(tuple[object, ...], key) if isinstance(key, tuple) else (key,)
    if not all(isinstance(part, (*_SCALARS, Call, Persistent)) for part in parts):
        raise _MalformedError(f"{_kind(cast(object, key))} is used as a key")
    return cast(object, key)


def _kind(value: object) -> str:
    return f"a {type(value).__name__.lower()}"


def _text_number(text: bytes) -> int:
    if len(text) > _MAX_LONG:
        raise _MalformedError(f"an integer of {len(text)} digits")
    return int(text)


_REASONS: dict[type[Exception], str] = {
    IndexError: "the stack is empty",
    struct.error: "it ends inside a number",
    UnicodeDecodeError: "text that is not UTF-8",
    ValueError: "a number that cannot be read",
}

_U8, _U16, _U32, _U64 = (struct.Struct(code) for code in ("<B", "<H", "<I", "<Q"))
_I32, _F64 = struct.Struct("<i"), struct.Struct(">d")
_STOP = ord(".")
_Step = Callable[[_Reader], object]


def _text(length: struct.Struct) -> _Step:
    return lambda r: r.push(r.take(r.number(length)).decode("utf-8", "surrogatepass"))


def _bytes(length: struct.Struct) -> _Step:
    return lambda r: r.push(r.take(r.number(length)))


def _latin(length: struct.Struct) -> _Step:
    """Python 2 strings: text in practice, bytes in principle."""
    return lambda r: r.push(r.take(r.number(length)).decode("latin-1"))


def _constant(value: object) -> _Step:
    return lambda r: r.push(value)


_STEPS: dict[bytes, _Step] = {
    b"\x80": _Reader.protocol,
    b"\x95": lambda r: r.number(_U64),  # FRAME: only a hint for buffered readers
    b"(": _Reader.mark,
    b"0": _Reader.pop_any,
    b"1": _Reader.pop_mark,
    b"2": _Reader.dup,
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"K": lambda r: r.push(r.number(_U8)),
    b"M": lambda r: r.push(r.number(_U16)),
    b"J": lambda r: r.push(r.number(_I32)),
    b"G": lambda r: r.push(r.number(_F64)),
    b"I": _Reader.text_int,
    b"L": _Reader.text_long,
    b"F": lambda r: r.push(float(r.line())),
    b"\x8a": lambda r: r.long(r.number(_U8)),
    b"\x8b": lambda r: r.long(r.number(_U32)),
    b"X": _text(_U32),
    b"\x8c": _text(_U8),
    b"\x8d": _text(_U64),
    b"V": lambda r: r.push(r.line().decode("raw_unicode_escape")),
    b"S": _Reader.text_string,
    b"U": _latin(_U8),
    b"T": _latin(_U32),
    b"C": _bytes(_U8),
    b"B": _bytes(_U32),
    b"\x8e": _bytes(_U64),
    b"\x96": _bytes(_U64),
    b")": _constant(()),
    b"t": lambda r: r.push(tuple(r.pop_mark())),
    b"\x85": lambda r: r.tuple_of(1),
    b"\x86": lambda r: r.tuple_of(2),
    b"\x87": lambda r: r.tuple_of(3),
    b"]": lambda r: r.push([]),
    b"l": lambda r: r.push(r.pop_mark()),
    b"a": lambda r: r.append([r.pop()]),
    b"e": lambda r: r.append(r.pop_mark()),
    b"}": lambda r: r.push({}),
    b"d": _Reader.make_dict,
    b"s": lambda r: r.set_items([r.pop(), r.pop()][::-1]),
    b"u": lambda r: r.set_items(r.pop_mark()),
    b"\x8f": lambda r: r.make_set("set"),
    b"\x90": lambda r: r.append(r.pop_mark()),
    b"\x91": lambda r: r.make_set("frozenset"),
    b"c": _Reader.text_global,
    b"\x93": _Reader.stack_global,
    b"R": _Reader.reduce,
    b"\x81": _Reader.reduce,
    b"\x92": _Reader.new_object_ex,
    b"b": _Reader.build,
    b"Q": lambda r: r.push(Persistent(r.pop())),
    b"g": lambda r: r.get(_text_number(r.line())),
    b"h": lambda r: r.get(r.number(_U8)),
    b"j": lambda r: r.get(r.number(_U32)),
    b"p": lambda r: r.put(_text_number(r.line())),
    b"q": lambda r: r.put(r.number(_U8)),
    b"r": lambda r: r.put(r.number(_U32)),
    b"\x94": lambda r: r.put(len(r.memo)),
}
_OPCODES: list[_Step | None] = [_STEPS.get(bytes([code])) for code in range(256)]
