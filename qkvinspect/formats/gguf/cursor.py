"""A cursor through the header of a GGUF file, which reads a bounded piece at a time."""

from __future__ import annotations

from struct import Struct

from qkvinspect.checkpoint import ByteOrder, ByteSource
from qkvinspect.error_codes import Code
from qkvinspect.formats.damaged import damaged
from qkvinspect.formats.limits import Limits

_CHUNK = 1 << 18
_HELD = 16 << 20
_MAX_NAME = 65_535


class Cursor:
    """A position in the header.

    Each piece is twice as long as the one before, up to a bound: a small header costs a remote file one short
    request, a long one few.
    """

    def __init__(self, source: ByteSource, byteorder: ByteOrder, limits: Limits, start: int) -> None:
        self.source = source
        self.limits = limits
        self._sign = "<" if byteorder == "little" else ">"
        self._held = b""
        self._base = start
        self._at = 0
        self._chunk = _CHUNK
        self._structs: dict[str, Struct] = {}

    @property
    def position(self) -> int:
        """Offset in the file of the next byte."""
        return self._base + self._at

    def skip(self, count: int) -> None:
        """Skip bytes without reading them.

        Raises:
            CheckpointError: the file ends before, or the header is over the limit.
        """
        self._check_end(count)
        self._at += count

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            CheckpointError: the file ends before, or the header is over the limit.
        """
        self._ensure(count)
        taken = self._held[self._at : self._at + count]
        self._at += count
        return taken

    def number(self, code: str) -> int:
        """The next integer, of a format of ``struct``."""
        value = self.scalar(code)
        assert isinstance(value, int)
        return value

    def scalar(self, code: str) -> int | float:
        """The next number, of a format of ``struct``."""
        layout = self._struct(code)
        self._ensure(layout.size)
        (value,) = layout.unpack_from(self._held, self._at)
        self._at += layout.size
        return value

    def text(self, what: str, most: int = _MAX_NAME) -> str:
        """The next string.

        Raises:
            CheckpointError: it is longer than ``most`` bytes, or not UTF-8.
        """
        length = self.number("Q")
        if length > most:
            raise damaged(self.source, Code.GGUF_TEXT, f"{what} is too long", f"{length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise damaged(self.source, Code.GGUF_TEXT, f"{what} is not UTF-8", None) from error

    def skip_strings(self, count: int) -> None:
        """Skip strings without building them: vocabularies have a million."""
        unpack = self._struct("Q").unpack_from
        while count:
            self._ensure(8)
            held, at = self._held, self._at
            last = len(held) - 8
            while count and at <= last:
                at += 8 + unpack(held, at)[0]
                count -= 1
            self._at, beyond = min(at, len(held)), max(at - len(held), 0)
            self.skip(beyond)

    def _struct(self, code: str) -> Struct:
        if code not in self._structs:
            self._structs[code] = Struct(self._sign + code)
        return self._structs[code]

    def _ensure(self, count: int) -> None:
        if self._at + count <= len(self._held):
            return
        self._check_end(count)
        self._base += self._at
        self._at = 0
        left = self.source.size - self._base
        self._held = self.source.read(self._base, min(max(count, self._chunk), left))
        self._chunk = min(2 * self._chunk, _HELD)

    def _check_end(self, count: int) -> None:
        end = self.position + count
        if end > self.source.size:
            found = f"{count if count < 10**18 else 'over 10^18'} bytes wanted at {self.position} of {self.source.size}"
            raise damaged(self.source, Code.GGUF_TRUNCATED, "ends in the middle of its header", found)
        self.limits.check("header", end, self.source.name)
