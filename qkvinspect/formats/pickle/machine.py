"""The stack machine that pickles are written for, without anything that could run code."""

from __future__ import annotations

import struct
from codecs import escape_decode  # pyright: ignore[reportUnknownVariableType, reportAttributeAccessIssue]
from collections.abc import Callable, Sequence
from typing import cast

from qkvinspect.codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.formats.pickle.nodes import Call, Global, Persistent, is_sequence

_ORDERED_DICT = Global("collections", "OrderedDict")
_MAX_LONG = 256
_MAX_KEY_PARTS = 1000
_SCALARS = (str, int, float, bytes, type(None), Global)
_STOP = ord(".")

_REASONS: dict[type[Exception], tuple[Code, str]] = {
    IndexError: (Code.PICKLE_STACK, "the stack is empty"),
    struct.error: (Code.PICKLE_TRUNCATED, "it ends inside a number"),
    UnicodeDecodeError: (Code.PICKLE_TEXT, "text that is not UTF-8"),
    ValueError: (Code.PICKLE_NUMBER, "a number that cannot be read"),
}


class MalformedError(Exception):
    """Why a pickle cannot be read; becomes a CheckpointError that says where."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(code, reason)
        self.why = code, reason


class Machine:
    """One pass over one pickle: a stack, a stack of marks and a memo."""

    def __init__(self, data: bytes, start: int, where: str) -> None:
        self.data = data
        self.position = start
        self.where = where
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.persistent: list[Persistent] = []

    def run(self, opcodes: Sequence[Callable[[Machine], object] | None]) -> object:
        """Walk the opcodes up to STOP; ``opcodes`` says what each of the 256 does."""
        data, size = self.data, len(self.data)
        opcode = -1
        try:
            while self.position < size:
                opcode = data[self.position]
                self.position += 1
                if opcode == _STOP:
                    if len(self.stack) != 1 or self.marks:
                        raise MalformedError(Code.PICKLE_STOP, "STOP leaves an unfinished stack")
                    return self.stack[0]
                step = opcodes[opcode]
                if step is None:
                    raise MalformedError(Code.PICKLE_OPCODE, f"opcode {bytes([opcode])!r} has no place in a checkpoint")
                step(self)
            raise MalformedError(Code.PICKLE_TRUNCATED, "it ends before its STOP opcode")
        except (MalformedError, IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
            code, reason = error.why if isinstance(error, MalformedError) else _REASONS[type(error)]
            raise CheckpointError(
                f"malformed pickle at byte {self.position}: {reason}",
                code=code,
                file=self.where,
                hint="the file is damaged or is not a checkpoint",
            ) from error

    # Reading of arguments.

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise MalformedError(Code.PICKLE_LENGTH, f"{count} bytes announced, {len(self.data) - self.position} left")
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
            raise MalformedError(Code.PICKLE_TRUNCATED, "a line does not end")
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
            raise MalformedError(Code.PICKLE_MARK, "a MARK is missing")
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

    def refer(self) -> None:
        self.persistent.append(Persistent(self.pop()))
        self.push(self.persistent[-1])

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise MalformedError(Code.PICKLE_MEMO, f"memo entry {index} was never stored")
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        if index < 0:
            raise MalformedError(Code.PICKLE_MEMO, f"memo entry {index}")
        self.memo[index] = self.stack[-1]

    # Containers.

    def append(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)  # pyright: ignore[reportUnknownMemberType]
        elif isinstance(target, Call):
            target.items.extend(items)
        else:
            raise MalformedError(Code.PICKLE_TARGET, f"items are appended to {_kind(target)}")

    def set_items(self, items: list[object]) -> None:
        if len(items) % 2:
            raise MalformedError(Code.PICKLE_PAIRS, "a key has no value")
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Call) else target
        if not isinstance(entries, dict):
            raise MalformedError(Code.PICKLE_TARGET, f"entries are set on {_kind(target)}")
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
            raise MalformedError(Code.PICKLE_STACK, "the stack is too short for a tuple")
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
            raise MalformedError(Code.PICKLE_GLOBAL, "a global is not named by two strings")
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
            raise MalformedError(Code.PICKLE_TARGET, f"state is set on {_kind(target)}")

    def long(self, length: int) -> None:
        if length > _MAX_LONG:
            raise MalformedError(Code.LIMIT_INTEGER, f"an integer of {length} bytes")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def text_int(self) -> None:
        text = self.line()
        if text in (b"00", b"01"):
            self.push(text == b"01")
        else:
            self.push(text_number(text, 0))

    def text_long(self) -> None:
        self.push(text_number(self.line().removesuffix(b"L"), 0))

    def text_string(self) -> None:
        text = self.line()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise MalformedError(Code.PICKLE_STRING, "a string is not quoted")
        raw, _ = escape_decode(text[1:-1])
        self.push(raw.decode("latin-1"))

    def protocol(self) -> None:
        version = self.take(1)[0]
        if version > 5:
            raise MalformedError(Code.PICKLE_PROTOCOL, f"protocol {version} is not known")

    def dup(self) -> None:
        self.push(self.stack[-1])


def _call(function: object, arguments: object) -> object:
    """A call that is not made; an OrderedDict becomes a plain one, also if made of pairs, as Python 2 did."""
    if function != _ORDERED_DICT or not is_sequence(arguments) or len(arguments) > 1:
        return Call(function, arguments)
    pairs = arguments[0] if arguments else ()
    if not is_sequence(pairs) or not all(is_sequence(pair) and len(pair) == 2 for pair in pairs):
        return Call(function, arguments)
    return {_key(key): value for key, value in filter(is_sequence, pairs)}


def _key(key: object) -> object:
    """A dict key whose hash is soon known."""
    waiting, seen = [key], 0
    while waiting:
        part = waiting.pop()
        seen += 1
        if isinstance(part, tuple):
            parts = cast("tuple[object, ...]", part)
            if seen + len(waiting) + len(parts) > _MAX_KEY_PARTS:
                raise MalformedError(Code.LIMIT_KEY, f"{_kind(key)} of over {_MAX_KEY_PARTS} parts is used as a key")
            waiting.extend(parts)
        elif not isinstance(part, (*_SCALARS, Call, Persistent)):
            raise MalformedError(Code.PICKLE_KEY, f"{_kind(part)} is used as a key")
    return key


def _kind(value: object) -> str:
    return f"a {type(value).__name__.lower()}"


def text_number(text: bytes, base: int = 10) -> int:
    if len(text) > _MAX_LONG:
        raise MalformedError(Code.LIMIT_INTEGER, f"an integer of {len(text)} digits")
    return int(text, base)
