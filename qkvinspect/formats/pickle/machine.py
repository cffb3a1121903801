"""The stack machine of pickles, without anything that could run code."""

from __future__ import annotations

import re
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable

from qkvinspect.error_codes import Code
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.pickle import tensor_calls
from qkvinspect.formats.pickle.keys import Keys, MalformedError, kind
from qkvinspect.formats.pickle.nodes import Call, Global, Persistent, is_dict, is_sequence
from qkvinspect.formats.pickle.tensor_calls import ORDERED_DICT, REBUILD, TensorCall
from qkvinspect.late_pattern import late_pattern
from qkvinspect.parsed import is_items

_MAKERS = b"]}(Q\x85\x86\x87R\x81\x92\x8f\x91\x94"  # a byte or two that make an object of a hundred
_CHECK_EVERY = 1 << 16
_SET, _FROZENSET = Global("builtins", "set"), Global("builtins", "frozenset")
_GETS = late_pattern(rb"h.|j.{4}", re.DOTALL)
_KNOWN = {(known.module, known.name): known for known in (REBUILD, ORDERED_DICT)}


class Machine:
    """One pass over one pickle: a stack, a stack of marks and a memo.

    Attributes:
        edge: where the walk must stop next to look at its limits, or at the end of a frame.
        top: the highest memo entry so far.
        orderly: whether every memo entry was above those before, so that none was stored twice.
        calls: tensors taken in at one step, whose memo entries are not in ``memo``; in order of these.
        persistent: every reference to something outside, in order.
        resolve: what stands for something outside, by its id.
        globals: every class and function that is named.
        called: those that are called as functions, by their ids.
    """

    def __init__(
        self, data: bytes, start: int, where: str, limits: Limits, resolve: Callable[[object], object]
    ) -> None:
        self.data = data
        self.resolve = resolve
        self.position = self.edge = start
        self.where = where
        self.limits = limits
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.top = -1
        self.orderly = True
        self.calls: list[TensorCall] = []
        self.persistent: list[Persistent | TensorCall] = []
        self._frame: int | None = None
        self.counted = b""
        self.known: dict[tensor_calls.Code, tensor_calls.Named] = {}
        self._counted = start
        self._made = 0
        self.keys = Keys()
        self.globals: dict[Global, None] = {}
        self.called: dict[int, Global] = {}

    def at_edge(self) -> None:
        """Check the walk against its limits, and the opcodes against the end of their frame."""
        position, size = self.position, len(self.data)
        if position >= size:
            raise MalformedError(Code.PICKLE_TRUNCATED, "it ends before its STOP opcode")
        if self._frame is not None and position >= self._frame:
            if position > self._frame:
                raise MalformedError(Code.PICKLE_FRAME, "an opcode goes past the end of its frame")
            self._frame = None
        self.at_end()
        self.edge = min(size, position + _CHECK_EVERY, size if self._frame is None else self._frame)

    def at_end(self) -> None:
        """Check the number of objects made so far against the limits."""
        done = self.data[self._counted : self.position]
        self._counted = self.position
        self._made += len(done) - len(done.translate(None, _MAKERS))
        self.limits.check("objects", self._made, self.where)
        self.limits.check("memo", len(self.memo) + len(self.calls) + len(self.globals), self.where)
        self.limits.check("stack", len(self.stack) + len(self.marks), self.where)

    def frame(self) -> None:
        length = self.number(_U64)
        if self._frame is not None:
            raise MalformedError(Code.PICKLE_FRAME, "a frame begins within another")
        if length > len(self.data) - self.position:
            raise MalformedError(Code.PICKLE_FRAME, f"a frame of {length} bytes, {len(self.data) - self.position} left")
        self._frame = self.position + length
        self.edge = min(self.edge, self._frame)

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

    def pop_any(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    # Memo.

    def get(self, index: int) -> None:
        self.push(self.memo[index] if index in self.memo else self.part(index))

    def part(self, index: int) -> object:
        """The part of a tensor that a memo entry holds."""
        place = bisect_right(self.calls, index, key=lambda call: call.first) - 1
        if place >= 0:
            call = self.calls[place]
            if index - call.first < len(call.parts):
                return call.parts[index - call.first]
        raise MalformedError(Code.PICKLE_MEMO, f"memo entry {index} was never stored")

    def count(self, top: int) -> bytes:
        """The memo entries from 0 on, far beyond ``top``; none where there cannot be so many."""
        if top > len(self.data):
            return b""
        numbers = array("I", range(2 * top + (1 << 10)))
        if sys.byteorder == "big":
            numbers.byteswap()
        self.counted = numbers.tobytes()
        return self.counted

    def named(self, code: tensor_calls.Code) -> tensor_calls.Named:
        """The type and device of a tensor's storage, by the code that gets them from the memo."""
        gets = _GETS.findall(b"".join(code))
        tag, kind, device, hooks = (self.memo.get(int.from_bytes(get[1:], "little")) for get in gets)
        if tag == "storage" and hooks is ORDERED_DICT and isinstance(kind, Global) and isinstance(device, str):
            return kind, device
        return None

    def put(self, index: int) -> None:
        if index < 0:
            raise MalformedError(Code.PICKLE_MEMO, f"memo entry {index}")
        self.memo[index] = self.stack[-1]
        self.orderly &= index > self.top
        self.top = max(self.top, index)

    def memoize(self) -> None:
        if self.calls:
            raise MalformedError(Code.PICKLE_MEMO, "it counts memo entries in two ways")
        self.put(len(self.memo))

    # Containers.

    def append(self, items: list[object]) -> None:
        target = self.stack[-1]
        if is_items(target):
            target.extend(items)
        elif isinstance(target, Call):
            target.items.extend(items)
        else:
            raise MalformedError(Code.PICKLE_TARGET, f"items are appended to {kind(target)}")

    def add_items(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        if not isinstance(target, Call):
            raise MalformedError(Code.PICKLE_TARGET, f"members are added to {kind(target)}")
        target.items.extend(items)

    def set_items(self, items: list[object]) -> None:
        if len(items) % 2:
            raise MalformedError(Code.PICKLE_PAIRS, "a key has no value")
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Call) else target
        if not is_dict(entries):
            raise MalformedError(Code.PICKLE_TARGET, f"entries are set on {kind(target)}")
        keys = items[::2]
        for key in keys:
            if type(key) is not str:
                self.keys.check(key)
        entries.update(zip(keys, items[1::2], strict=True))

    def make_dict(self) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    def make_set(self) -> None:
        self.push(Call(_SET, ()))

    def make_frozenset(self) -> None:
        made = Call(_FROZENSET, ())
        made.items.extend(self.pop_mark())
        self.push(made)

    def tuple_of_three(self) -> None:
        if len(self.stack) < 3:
            raise MalformedError(Code.PICKLE_STACK, "the stack is too short for a tuple")
        self.stack[-3:] = [tuple(self.stack[-3:])]

    # Objects: named, never made.

    def refer(self) -> None:
        reference = self.resolve(self.pop())
        if isinstance(reference, Persistent):
            self.persistent.append(reference)
        self.push(reference)

    def new_object(self) -> None:
        arguments = self.pop()
        self.push(self.make(self.pop(), arguments))

    def new_object_ex(self) -> None:
        keywords, arguments = self.pop(), self.pop()
        self.push(Call(self.pop(), (arguments, keywords)))

    def call(self, function: object, arguments: object) -> object:
        """What a function would return."""
        if type(function) is Global:
            self.called[id(function)] = function
        return self.make(function, arguments)

    def make(self, function: object, arguments: object) -> object:
        """A call that is not made; an OrderedDict becomes a plain one, also if made of pairs, as Python 2 did."""
        if function is not ORDERED_DICT or not is_sequence(arguments) or len(arguments) > 1:
            return Call(function, arguments)
        pairs = arguments[0] if arguments else ()
        if not is_sequence(pairs) or not all(is_sequence(pair) and len(pair) == 2 for pair in pairs):
            return Call(function, arguments)
        made: dict[object, object] = {}
        for key, value in filter(is_sequence, pairs):
            self.keys.check(key)
            made[key] = value
        return made

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise MalformedError(Code.PICKLE_GLOBAL, "a global is not named by two strings")
        self._push_global(module, name)

    def text_global(self) -> None:
        self._push_global(self.line().decode(), self.line().decode())

    def _push_global(self, module: str, name: str) -> None:
        named = _KNOWN.get((module, name)) or Global(module, name)
        self.globals[named] = None
        self.push(named)

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1]
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):  # an OrderedDict's attributes (_metadata) tell us nothing
            raise MalformedError(Code.PICKLE_TARGET, f"state is set on {kind(target)}")

    def protocol(self) -> None:
        version = self.take(1)[0]
        if version > 5:
            raise MalformedError(Code.PICKLE_PROTOCOL, f"protocol {version} is not known")

    def dup(self) -> None:
        self.push(self.stack[-1])


_U64 = struct.Struct("<Q")
