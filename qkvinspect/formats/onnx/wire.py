"""A reader of protobuf's wire format (protobuf.dev/programming-guides/encoding), a bounded piece at a time.

Skipped fields are not read, so a message with two gigabytes of weights costs only what stands around them.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checkpoint import ByteSource
from qkvinspect.error_codes import Code
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats.damaged import damaged
from qkvinspect.formats.limits import Limits

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

MAX_TEXT = 65_535
"""Bytes of the longest name that is read."""

_LEAST, _MOST = 1 << 11, 1 << 20
_LONGEST_VARINT = 10


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        value: of a varint; 0 of others.
        start, stop: where in the file the content of the others lies.
    """

    number: int
    kind: int
    value: int
    start: int
    stop: int


class Wire:
    """The fields of a file's messages.

    After a jump little is read, and twice as much each time that the next bytes follow: between two weights lie some
    hundred bytes, and a graph without weights is one long run.
    """

    def __init__(self, source: ByteSource, limits: Limits) -> None:
        self.source = source
        self.limits = limits
        self.seen = 0
        self._held = b""
        self._base = 0
        self._chunk = _LEAST

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """The fields of the message that lies there, in the order of the file.

        Raises:
            CheckpointError: it is malformed, or the file has more of them than its limit of objects.
        """
        at = start
        while at < stop:
            tag, at = self._varint(at, stop)
            number, kind = tag >> 3, tag & 7
            self.seen += 1
            if self.seen & 0xFFF == 0:
                self.limits.check("objects", self.seen, self.source.name)
            if not 0 < number < 1 << 29:
                raise damaged(self.source, Code.ONNX_WIRE, "has a field of no possible number", str(number)[:40])
            if kind == VARINT:
                value, at = self._varint(at, stop)
                yield Field(number, kind, value, at, at)
                continue
            size = self._size(kind, at, stop)
            begin = at = at if kind != BYTES else size[1]
            at += size[0]
            if at > stop:
                found = f"{size[0] if size[0] < 10**18 else 'over 10^18'} bytes at {begin}, the message ends at {stop}"
                raise damaged(self.source, Code.ONNX_TRUNCATED, "has a field that is longer than its message", found)
            yield Field(number, kind, 0, begin, at)

    def _size(self, kind: int, at: int, stop: int) -> tuple[int, int]:
        """(bytes of the content, where it begins if a length comes first)."""
        if kind == BYTES:
            return self._varint(at, stop)
        if kind == FIXED32:
            return 4, at
        if kind == FIXED64:
            return 8, at
        raise damaged(self.source, Code.ONNX_WIRE, "has a field of an unknown kind", f"{kind} at byte {at}")

    def varints(self, start: int, stop: int) -> Iterator[int]:
        """The numbers of a packed field."""
        at = start
        while at < stop:
            value, at = self._varint(at, stop)
            yield value

    def text(self, field: Field, what: str) -> str:
        """A string.

        Raises:
            CheckpointError: it is no string, longer than any name, or not UTF-8.
        """
        length = field.stop - field.start
        if field.kind != BYTES or length > MAX_TEXT:
            found = f"{length} bytes" if field.kind == BYTES else "a number"
            raise damaged(self.source, Code.ONNX_TEXT, f"{what} is too long, or no text", found)
        try:
            return self.take(field.start, field.stop).decode()
        except UnicodeDecodeError as error:
            raise damaged(self.source, Code.ONNX_TEXT, f"{what} is not UTF-8", None) from error

    def message(self, field: Field, what: str) -> tuple[int, int]:
        """Where a message in a message lies.

        Raises:
            CheckpointError: the field holds a number instead.
        """
        if field.kind != BYTES:
            raise damaged(self.source, Code.ONNX_WIRE, f"has a number in place of {what}", None)
        return field.start, field.stop

    def take(self, start: int, stop: int) -> bytes:
        """The bytes of a short run, which the caller knows to lie in the file."""
        self._ensure(start, stop)
        return self._held[start - self._base : stop - self._base]

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        """(the number there, where it ends)."""
        most = min(at + _LONGEST_VARINT, stop)
        self._ensure(at, most)
        held, base = self._held, self._base
        byte = held[at - base] if at < most else 0x80
        if byte < 0x80:  # nearly all are of one byte
            return byte, at + 1
        value, shift = 0, 0
        for place in range(at - base, most - base):
            byte = held[place]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, place + base + 1
        code = Code.ONNX_TRUNCATED if most == stop else Code.ONNX_WIRE
        raise damaged(self.source, code, "has a number without an end", f"at byte {at}")

    def _ensure(self, start: int, stop: int) -> None:
        end = self._base + len(self._held)
        if self._base <= start and stop <= end:
            return
        follows = self._base <= start <= end
        self._chunk = min(2 * self._chunk, _MOST) if follows else _LEAST
        self._base = start
        self._held = self.source.read(start, min(max(stop - start, self._chunk), self.source.size - start))


def signed(value: int) -> int:
    """An int64, as protobuf writes it: two's complement in 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value
