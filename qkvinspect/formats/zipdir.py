"""The directory of a zip file, read strictly (PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3).

Only what a checkpoint needs: entries that are stored, not compressed, so that each is a run of bytes. Whatever readers
    of zips interpret differently is refused.
"""

from __future__ import annotations

import stat
import struct
from bisect import bisect_right
from collections.abc import Iterator

from qkvinspect.checkpoint import ByteSource
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.trailing import follows

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<8x2H4x3L3H4x2L")
_LOCAL_SIZE = 30
_MAX_COMMENT = 0xFFFF
_WIDE = 0xFFFFFFFF
_FOLDER = 0x10  # of MS-DOS' attributes


class Entry(NamedTuple):
    """One file inside the zip, as its central directory describes it.

    Attributes:
        header: the offset of its local header.
        end: where its bytes must end at the latest: no entry shares a byte with another.
    """

    name: str
    flags: int
    method: int
    crc: int
    stored_size: int
    size: int
    header: int
    end: int


_Facts = tuple[int, int, int, int, int, int]
"""Flags to header of an entry."""


class Directory:
    """The entries of a zip by name, in the order of its directory."""

    def __init__(self, facts: dict[str, _Facts], headers: list[int], end: int) -> None:
        self._facts = facts
        self._headers = [*headers, end]

    @property
    def has_checksums(self) -> bool:
        """Whether any entry has a checksum: torch can be told to write none."""
        return any(facts[2] for facts in self._facts.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def get(self, name: str) -> Entry | None:
        return self[name] if name in self._facts else None

    def __getitem__(self, name: str) -> Entry:
        facts = self._facts[name]
        return Entry(name, *facts, self._headers[bisect_right(self._headers, facts[5])])


def read_directory(source: ByteSource, limits: Limits) -> Directory:
    """The directory of a whole file.

    Raises:
        CheckpointError: it is damaged, ambiguous or too large.
    """
    count, size, start = _find_end(source)
    limits.check("entries", count, source.name)
    limits.check("header", size, source.name)
    data = source.read(start, size)
    unpack, fixed = _CENTRAL.unpack_from, _CENTRAL.size
    entries: dict[str, _Facts] = {}
    position = 0
    for _ in range(count):
        if position + fixed > size or not data.startswith(b"PK\x01\x02", position):
            raise damaged(source, Code.ZIP_DIRECTORY, "its directory ends too early", f"byte {position} of {size}")
        flags, method, crc, stored_size, full_size, named, extra, comment, attributes, header = unpack(data, position)
        begin = position + fixed
        position = begin + named
        try:
            name = data[begin:position].decode()
        except UnicodeDecodeError as error:
            raise damaged(source, Code.ZIP_NAME, "an entry's name is not UTF-8", repr(data[begin:position])) from error
        if extra:
            sizes = full_size, stored_size, header
            full_size, stored_size, header = wide_sizes(source, name, data[position : position + extra], sizes)
        if extra or comment:
            position += extra + comment
        if attributes:
            _check_kind(source, name, attributes, full_size)
        if name in entries:
            raise damaged(source, Code.ZIP_DUPLICATE, f"two entries are called {name!r}", "a second one")
        entries[name] = flags, method, crc, stored_size, full_size, header
    if position != size:
        found = f"{size - position} more bytes"
        raise damaged(source, Code.ZIP_COUNT, f"its directory should hold {count} entries", found)
    return Directory(entries, _headers(source, entries, start), start)


def _headers(source: ByteSource, entries: dict[str, _Facts], end: int) -> list[int]:
    """Where the entries begin, in order: none may begin within another or reach into the directory."""
    headers: list[int] = []
    position = 0
    for name, (_, _, _, stored_size, _, header) in sorted(entries.items(), key=lambda item: item[1][5]):
        if not headers and header:
            raise damaged(source, Code.ZIP_PREPENDED, "something stands before its first entry", f"{header} bytes")
        if header < position:
            raise damaged(source, Code.ZIP_OVERLAP, f"entry {name!r} begins within another", f"offset {header}")
        position = header + _LOCAL_SIZE + len(name) + stored_size
        if position > end:
            found = f"offset {header}"
            raise damaged(source, Code.ZIP_RANGE, f"entry {name!r} does not fit before the directory", found)
        headers.append(header)
    return headers


def _check_kind(source: ByteSource, name: str, attributes: int, size: int) -> None:
    """Refuse links and folders with content: one reader gives the content, another nothing."""
    kind = stat.S_IFMT(attributes >> 16)
    folder = bool(attributes & _FOLDER) or kind == stat.S_IFDIR
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (folder and size):
        raise damaged(source, Code.ZIP_KIND, f"entry {name!r} is no regular file", f"attributes {attributes:#x}")


def _find_end(source: ByteSource) -> tuple[int, int, int]:
    """(number of entries, size, offset) of the central directory."""
    length = min(source.size, _END.size + _MAX_COMMENT)
    tail = source.read(source.size - length, length)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > length:
        raise CheckpointError(
            "is a zip file without an end record",
            code=Code.ZIP_NO_END,
            file=source.name,
            expected="a directory at the end",
            found=f"{source.size} bytes that stop before it",
            hint="the file is truncated: copy or download it again",
        )
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(tail, at)
    end = source.size - length + at
    whole = end + _END.size + comment
    if whole < source.size:
        raise follows(source, Code.ZIP_TRAILING, "damaged zip: something follows its end record", whole)
    if whole != source.size:
        raise damaged(
            source, Code.ZIP_TRAILING, "something follows its end record", f"{source.size - end - _END.size} bytes"
        )
    directory_end = end
    if end >= _END64_LOCATOR.size:
        signature, _, offset, _ = _END64_LOCATOR.unpack(source.read(end - _END64_LOCATOR.size, _END64_LOCATOR.size))
        if signature == b"PK\x06\x07":
            narrow = here, count, size, start
            disk, first_disk, here, count, size, start = _end64(source, offset, end - _END64_LOCATOR.size)
            directory_end = offset
            for small, large, most in zip(
                narrow, (here, count, size, start), (0xFFFF,) * 2 + (_WIDE,) * 2, strict=True
            ):
                if small not in (large, most):
                    raise damaged(source, Code.ZIP_END64, "its two end records disagree", f"{small} and {large}")
    if disk or first_disk or here != count:
        raise damaged(source, Code.ZIP_SPLIT, "it is one part of a zip split over several files", f"disk {disk}")
    if start + size != directory_end:
        raise damaged(source, Code.ZIP_PLACE, "its directory is not where its end record says", f"offset {start}")
    return count, size, start


def _end64(source: ByteSource, offset: int, locator: int) -> tuple[int, ...]:
    if offset + _END64.size <= locator:
        record = _END64.unpack(source.read(offset, _END64.size))
        if record[0] == b"PK\x06\x06" and offset + 12 + record[1] == locator:
            return record[4:]
    raise damaged(source, Code.ZIP_END64, "its zip64 end record is not where it should be", f"offset {offset}")


def wide_sizes(source: ByteSource, name: str, extra: bytes, narrow: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes (and offset) of an entry, those that need over 32 bits from its zip64 extra field."""
    count = narrow.count(_WIDE)
    if not count:
        return narrow
    position = 0
    while position + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, position)
        if tag == 1 and size >= 8 * count and position + 4 + size <= len(extra):
            wide = iter(struct.unpack_from(f"<{count}Q", extra, position + 4))
            return tuple(next(wide) if value == _WIDE else value for value in narrow)
        position += 4 + size
    raise damaged(source, Code.ZIP_SIZES64, f"entry {name!r} of over 4 GiB lacks its zip64 sizes", "none")


def damaged(source: ByteSource, code: Code, message: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"damaged zip: {message}", code=code, file=source.name, found=found, hint="copy or download it again"
    )
