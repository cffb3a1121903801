"""Read a tensor as torch.save pickles it in one step instead of thirty.

A checkpoint's pickle is little else than this call, hundreds of thousands of times:
``_rebuild_tensor_v2(<storage>, offset, size, stride, requires_grad, OrderedDict())``. Whatever is written in
another way, or does not count its memo entries one after another, is left to the machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from qkvinspect.formats.pickle.nodes import Call, Global, Persistent, is_tuple
from qkvinspect.late_pattern import late_pattern

REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
ORDERED_DICT = Global("collections", "OrderedDict")

_FORM = "( ( HEAD KEY PUT DEVICE INT VIEW t PUT Q INT SIZES SIZES GRAD HOOKS ) R PUT t PUT R PUT"
_GET, _INT = rb"(?:h.|j.{4})", rb"(?:K.|M..|J.{3}[\x00-\x7f])"
_TUPLE = rb"(?:%b\x85|%b{2}\x86|%b{3}\x87|\(%b{4,64}t)" % (_INT, _INT, _INT, _INT)


def _compiled(words: Mapping[str, bytes]) -> re.Pattern[bytes]:
    return late_pattern(b"".join(words.get(word, re.escape(word.encode())) for word in _FORM.split()), re.DOTALL)


_MEMO = _compiled(
    {
        "HEAD": b"(%b%b)" % (_GET, _GET),
        "KEY": rb"X(.\0\0\0[0-9]+)",
        "PUT": b"r(.{4})",
        "DEVICE": b"(%b)" % _GET,
        "INT": _INT,
        "VIEW": b"N?",
        "SIZES": rb"(?:%br(.{4})|\))" % _TUPLE,
        "GRAD": rb"[\x88\x89]",
        "HOOKS": b"(%b)" % _GET,
    }
)
"""Captures the references to the memo, and the key with its length."""

_VALUES = _compiled(
    {
        "HEAD": _GET + _GET,
        "KEY": rb"X.\0\0\0([0-9]+)",
        "PUT": b"r.{4}",
        "DEVICE": _GET,
        "INT": b"(%b)" % _INT,
        "VIEW": b"(N?)",
        "SIZES": rb"(?:(%b)r.{4}|\))" % _TUPLE,
        "GRAD": rb"([\x88\x89])",
        "HOOKS": _GET,
    }
)
"""Captures everything else."""

_INTEGER = late_pattern(rb"K.|M..|J.{4}", re.DOTALL)

Code = tuple[bytes, bytes, bytes]
"""What gets the storage's tag and type, its device, and OrderedDict from the memo."""

Named = tuple[Global, str] | None
"""The storage's type and device; None where the code gets something else."""


class TensorCall(Call):
    """A call of ``_rebuild_tensor_v2`` whose arguments are read when they are asked for.

    Attributes:
        first: the memo entry of its first part; the others follow, in the order of ``parts``.
        key: of its storage, in ASCII, behind its length.
        named: the type and device of its storage.
    """

    __slots__ = ("_data", "_parts", "_start", "first", "key", "named")

    def __init__(self, data: bytes, start: int, first: int, key: bytes, named: tuple[Global, str]) -> None:
        self.function = REBUILD
        self.state = self._arguments = self._items = self._entries = None
        self._data = data
        self._start = start
        self.key = key
        self.named = named
        self._parts: tuple[object, ...] = ()
        self.first = first

    @property
    def arguments(self) -> object:
        return self.parts[-2]

    @property
    def kind(self) -> Global:
        """The type of its storage."""
        return self.named[0]

    @property
    def storage(self) -> Persistent:
        """The reference to its storage."""
        arguments = self.arguments
        assert is_tuple(arguments)
        storage = arguments[0]
        assert isinstance(storage, Persistent)
        return storage

    @property
    def parts(self) -> tuple[object, ...]:
        """What its memo entries hold: the storage's key and id, size, stride (if any), hooks, arguments, itself."""
        if not self._parts:
            key, numel, offset, sizes, strides = self.values
            found = self._found
            storage = ("storage", self.named[0], key, self.named[1], numel, *((None,) if found[3] else ()))
            hooks: dict[object, object] = {}
            arguments = (Persistent(storage), offset, sizes, strides, found[7] == b"\x88", hooks)
            self._parts = (key, storage, *filter(None, (sizes, strides)), hooks, arguments, self)
        return self._parts

    @property
    def values(self) -> tuple[str, int, int, tuple[int, ...], tuple[int, ...]]:
        """Key and number of elements of the storage, then offset, size and stride."""
        key, numel, _, offset, size, stride, _ = self._found.groups(b"")
        return key.decode(), _number(numel), _number(offset), _sizes(size), _sizes(stride)

    @property
    def _found(self) -> re.Match[bytes]:
        found = _VALUES.match(self._data, self._start)
        assert found is not None
        return found


def tensor_call(
    data: bytes, start: int, top: int, counted: bytes, known: dict[Code, Named], find: Callable[[Code], Named]
) -> tuple[TensorCall, int, int] | None:
    """The call whose arguments begin at ``start``, the offset behind it, and its last memo entry.

    Args:
        top: the last memo entry so far.
        counted: the memo entries from 0 on, as LONG_BINPUT writes them.
        known: what ``find`` found so far.
    """
    match = _MEMO.match(data, start)
    if match is None:
        return None
    head, key, a, device, b, c, d, hooks, e, f, g = match.groups(b"")
    puts = a + b + c + d + e + f + g
    first = top + 1
    if puts != counted[4 * first : 4 * first + len(puts)] or len(key) != key[0] + 4:
        return None
    code = head, device, hooks
    named = known.get(code) or known.setdefault(code, find(code))
    if named is None:
        return None
    return TensorCall(data, start, first, key, named), match.end(), top + (len(puts) >> 2)


@lru_cache(1 << 12)
def _number(code: bytes) -> int:
    return int.from_bytes(code[1:], "little")


@lru_cache(1 << 12)
def _sizes(code: bytes) -> tuple[int, ...]:
    """The integers of a tuple, by its code."""
    if code[:-1:2].strip(b"K"):
        return tuple(map(_number, _INTEGER.findall(code)))
    return tuple(code[1::2])
