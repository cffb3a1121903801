"""Locate the bytes of a zip's entries and verify their checksums."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from threading import Lock

from zlib_ng import zlib_ng

from qkvinspect.checkpoint import ByteSource, Extent, Region
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.formats.zipdir import Entry, damaged, wide_sizes
from qkvinspect.sources.briefly import AT_ONCE, is_filling, read_briefly

_LOCAL = struct.Struct("<4s2x2H4x3L2H")
_STORED = 0
_ENCRYPTED = 0x2041  # weak, strong, and of the directory
_DESCRIPTOR = 0x8  # checksum and sizes follow the data
_PIECE = 4 << 20  # of what is not on this machine


class EntryRegion(Region):
    """The bytes of an entry; its own header is read when they are asked for, and then its checksum is verified.

    Raises:
        CheckpointError: the entry is compressed or encrypted, so it is no plain run of bytes.
    """

    def __init__(self, source: ByteSource, entry: Entry, *, has_checksum: bool) -> None:
        if entry.method != _STORED or entry.size != entry.stored_size or entry.flags & _ENCRYPTED:
            raise CheckpointError(
                f"entry {entry.name!r} is compressed or encrypted",
                code=Code.ZIP_ENCRYPTED if entry.flags & _ENCRYPTED else Code.ZIP_COMPRESSED,
                file=source.name,
                expected="a stored entry, as torch.save writes",
                found=f"method {entry.method}, flags {entry.flags:#x}, {entry.stored_size:,} bytes for {entry.size:,}",
                hint="unpack the file and zip it again without compression",
            )
        super().__init__(source, lambda: _data_start(source, entry), entry.size)
        self._entry = entry
        self.checked = not has_checksum
        self._checking = Lock()

    @property
    def extents(self) -> tuple[Extent, ...]:
        return (Extent(self.source, self._entry.header, self._entry.end),)

    def check(self) -> None:
        if self.checked:
            return
        with self._checking:
            if not self.checked:
                piece = AT_ONCE if is_filling(self.source) else _PIECE
                deque(self._verified(_equal(self._entry.size, piece)), maxlen=0)

    def pieces(self, sizes: Iterable[int]) -> Iterator[bytes | memoryview]:
        """All bytes, in pieces of these sizes, each to be used before the next is taken.

        They are to be believed once the last was taken and no error came after it.

        Raises:
            CheckpointError: the checksum is wrong.
        """
        with self._checking:
            yield from self._verified(sizes)

    def _verified(self, sizes: Iterable[int]) -> Iterator[bytes | memoryview]:
        """All bytes, once their checksum is compared; zlib would take three times as long to compute it."""
        crc, offset = 0, self.start
        for size in sizes:
            data = read_briefly(self.source, offset, size)
            offset += size
            crc = zlib_ng.crc32(data, crc)  # pyright: ignore[reportUnknownMemberType]
            yield data
        if crc != self._entry.crc:
            said = f"the checksum of entry {self._entry.name!r} is wrong"
            raise damaged(self.source, Code.ZIP_CHECKSUM, said, f"{crc:08x}")
        self.checked = True


def read(source: ByteSource, entry: Entry, *, has_checksum: bool) -> bytes:
    """All bytes of one entry."""
    return EntryRegion(source, entry, has_checksum=has_checksum).read(0, entry.size)


def _data_start(source: ByteSource, entry: Entry) -> int:
    name = entry.name.encode()
    header = source.read(entry.header, _LOCAL.size + len(name))
    signature, flags, method, crc, stored_size, size, name_size, extra_size = _LOCAL.unpack_from(header)
    if signature != b"PK\x03\x04":
        raise damaged(source, Code.ZIP_LOCAL, f"entry {entry.name!r} has no local header", f"offset {entry.header}")
    start = entry.header + _LOCAL.size + name_size + extra_size
    if start + entry.stored_size > entry.end:
        found = f"{start + entry.stored_size} of {entry.end}"
        raise damaged(source, Code.ZIP_RANGE, f"entry {entry.name!r} goes past the next one", found)
    if extra_size:
        extra = source.read(start - extra_size, extra_size)
        size, stored_size = wide_sizes(source, entry.name, extra, (size, stored_size))
    said = header[_LOCAL.size :], name_size, flags, method
    facts = crc, stored_size, size
    later = bool(flags & _DESCRIPTOR) and not any(facts)
    if said != (name, len(name), entry.flags, entry.method) or (
        not later and facts != (entry.crc, entry.stored_size, entry.size)
    ):
        raise damaged(
            source, Code.ZIP_MISMATCH, f"entry {entry.name!r} is described otherwise by its own header", repr(said)
        )
    return start


def _equal(nbytes: int, piece: int) -> Iterator[int]:
    """Sizes of pieces that are read at once."""
    return (min(piece, nbytes - start) for start in range(0, nbytes, piece))
