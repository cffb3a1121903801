"""The directory of a zip file, read strictly (PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3).

Only what a checkpoint needs: entries that are stored, not compressed, so that each is a run of bytes.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from qkvinspect.codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.model import ByteSource, Region

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT = 0xFFFF
_STORED = 0
_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True)
class Entry:
    """One file inside the zip, as its central directory describes it."""

    name: str
    method: int
    flags: int
    size: int
    stored_size: int
    header: int
    crc: int


def read_directory(source: ByteSource) -> dict[str, Entry]:
    """All entries by name, in the order of the directory.

    Raises:
        CheckpointError: there is no sound directory, or two entries share a name.
    """
    count, size, start = _find_end(source)
    data = source.read(start, size)
    entries: dict[str, Entry] = {}
    position = 0
    for _ in range(count):
        entry, position = _central_entry(source, data, position)
        if entry.name in entries:
            raise _damaged(source, Code.ZIP_DUPLICATE, f"two entries are called {entry.name!r}", "a second one")
        if entry.header + _LOCAL.size + entry.stored_size > start:
            raise _damaged(
                source, Code.ZIP_RANGE, f"entry {entry.name!r} does not fit before the directory", str(entry.header)
            )
        entries[entry.name] = entry
    if position != size:
        raise _damaged(
            source, Code.ZIP_COUNT, f"its directory should hold {count} entries", f"{size - position} more bytes"
        )
    return entries


def region(source: ByteSource, entry: Entry) -> Region:
    """Where an entry's bytes are; the local header is read when the start is first asked for.

    Raises:
        CheckpointError: the entry is compressed or encrypted, so it is no plain run of bytes.
    """
    if entry.method != _STORED or entry.size != entry.stored_size or entry.flags & _ENCRYPTED:
        raise CheckpointError(
            f"entry {entry.name!r} is compressed or encrypted",
            code=Code.ZIP_ENCRYPTED if entry.flags & _ENCRYPTED else Code.ZIP_COMPRESSED,
            file=source.name,
            expected="a stored entry, as torch.save writes",
            found=f"method {entry.method}, flags {entry.flags:#x}",
            hint="unpack the file and zip it again without compression",
        )
    return Region(source, lambda: _data_start(source, entry), entry.size)


def read_entry(source: ByteSource, entry: Entry) -> bytes:
    """All bytes of one entry, checked against its checksum."""
    place = region(source, entry)
    data = place.read(0, place.nbytes)
    if zlib.crc32(data) != entry.crc:
        raise _damaged(
            source, Code.ZIP_CHECKSUM, f"the checksum of entry {entry.name!r} is wrong", f"{zlib.crc32(data):08x}"
        )
    return data


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
    if end + _END.size + comment != source.size:
        raise _damaged(
            source, Code.ZIP_TRAILING, "something follows its end record", f"{source.size - end - _END.size} bytes"
        )
    directory_end = end
    if end >= _END64_LOCATOR.size:
        signature, _, offset, _ = _END64_LOCATOR.unpack(source.read(end - _END64_LOCATOR.size, _END64_LOCATOR.size))
        if signature == b"PK\x06\x07":
            record = _END64.unpack(source.read(offset, _END64.size))
            if record[0] != b"PK\x06\x06":
                raise _damaged(
                    source, Code.ZIP_END64, "its zip64 end record is not where it should be", f"offset {offset}"
                )
            disk, first_disk, here, count, size, start = record[4:10]
            directory_end = offset
    if disk or first_disk or here != count:
        raise _damaged(source, Code.ZIP_SPLIT, "it is one part of a zip split over several files", f"disk {disk}")
    if start + size != directory_end:
        raise _damaged(source, Code.ZIP_PLACE, "its directory is not where its end record says", f"offset {start}")
    return count, size, start


def _central_entry(source: ByteSource, data: bytes, position: int) -> tuple[Entry, int]:
    if position + _CENTRAL.size > len(data) or data[position : position + 4] != b"PK\x01\x02":
        raise _damaged(source, Code.ZIP_DIRECTORY, "its directory ends too early", f"byte {position} of {len(data)}")
    fields = _CENTRAL.unpack_from(data, position)
    flags, method = fields[5], fields[6]
    stored_size, size = fields[10], fields[11]
    name_size, extra_size, comment_size = fields[12:15]
    header = fields[18]
    at = position + _CENTRAL.size
    raw_name = data[at : at + name_size]
    extra = data[at + name_size : at + name_size + extra_size]
    wanted = [value for value in (size, stored_size, header) if value == 0xFFFFFFFF]
    if wanted:
        wide = iter(_zip64_values(source, extra, len(wanted)))
        size, stored_size, header = (
            next(wide) if value == 0xFFFFFFFF else value for value in (size, stored_size, header)
        )
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(source, Code.ZIP_NAME, "an entry's name is not UTF-8", repr(raw_name)) from error
    return Entry(name, method, flags, size, stored_size, header, fields[9]), at + name_size + extra_size + comment_size


def _zip64_values(source: ByteSource, extra: bytes, count: int) -> tuple[int, ...]:
    position = 0
    while position + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, position)
        if tag == 1 and size >= 8 * count and position + 4 + size <= len(extra):
            return struct.unpack_from(f"<{count}Q", extra, position + 4)
        position += 4 + size
    raise _damaged(source, Code.ZIP_SIZES64, "an entry of over 4 GiB lacks its zip64 sizes", "none")


def _data_start(source: ByteSource, entry: Entry) -> int:
    header = source.read(entry.header, _LOCAL.size)
    fields = _LOCAL.unpack(header)
    name_size, extra_size = fields[-2:]
    if fields[0] != b"PK\x03\x04":
        raise _damaged(source, Code.ZIP_LOCAL, f"entry {entry.name!r} has no local header", f"offset {entry.header}")
    name = source.read(entry.header + _LOCAL.size, name_size)
    if name != entry.name.encode() or fields[3] != entry.method or (fields[2] ^ entry.flags) & _ENCRYPTED:
        raise _damaged(
            source, Code.ZIP_MISMATCH, f"entry {entry.name!r} is described otherwise by its own header", repr(name)
        )
    start = entry.header + _LOCAL.size + name_size + extra_size
    if start + entry.stored_size > source.size:
        raise _damaged(
            source, Code.ZIP_RANGE, f"entry {entry.name!r} goes past the end", f"{start + entry.stored_size}"
        )
    return start


def _damaged(source: ByteSource, code: Code, message: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"damaged zip: {message}", code=code, file=source.name, found=found, hint="copy or download it again"
    )
