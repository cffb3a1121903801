"""The members of a tar, read strictly: pax (POSIX.1-2001) as Python's tarfile writes it."""

from __future__ import annotations

import re

from qkvinspect.checkpoint import ByteSource
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.late_pattern import late_pattern

_BLOCK = 512
_CHECKSUM, _SIZE = slice(148, 156), slice(124, 136)
_MAGIC = b"ustar\x0000"
_OCTAL = late_pattern(rb"[0-7]{1,11}[ \0]*|[0-7]{12}")
_RECORD = late_pattern(rb"([1-9]\d{0,4}) ([a-z]+)=([^\n]*)\n")
_IDLE_RECORDS = (b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname")
_MAX_RECORDS = 1 << 12
_MAX_HEADERS = 64
_MAX_END = 1 << 20
_KINDS = {b"0": "", b"\0": "", b"1": "a hard link", b"2": "a symbolic link", b"5": "a folder"}


class Member(NamedTuple):
    """A member: what it is, if no plain file, and where its bytes lie."""

    kind: str
    start: int
    size: int


def read_members(source: ByteSource, wanted: frozenset[str]) -> dict[str, Member]:
    """The members by name, or an empty dict where it is another tar than one with all ``wanted`` members.

    Raises:
        CheckpointError: it is damaged or ambiguous, or a name leaves its folder.
    """
    members: dict[str, Member] = {}
    position, size = 0, None
    for _ in range(_MAX_HEADERS):
        if position + _BLOCK > source.size:
            raise damaged(source, Code.TAR_TRUNCATED, "it ends without the blocks of zeros that end it", position)
        header = source.read(position, _BLOCK)
        if not any(header):
            _check_end(source, position)
            return members if wanted <= members.keys() else {}
        name, kind, said = _header(source, header, position)
        start, size = position + _BLOCK, said if size is None else size
        position = start + size + -size % _BLOCK
        if position > source.size:
            raise damaged(source, Code.TAR_TRUNCATED, f"member {name!r} goes past its end", f"{size} bytes")
        if any(source.read(start + size, -size % _BLOCK)):
            raise damaged(source, Code.TAR_TRAILING, f"what fills member {name!r} up is not zeros", start + size)
        if kind == b"x":
            size = _size_in_records(source, source.read(start, min(size, _MAX_RECORDS)), size)
            continue
        if name.startswith("/") or ".." in name.split("/"):
            raise damaged(source, Code.TAR_NAME, "a member's name leads out of its folder", repr(name))
        if name in members:
            raise damaged(source, Code.TAR_DUPLICATE, f"two members are called {name!r}", "a second one")
        members[name] = Member(_KINDS.get(kind, f"of type {kind!r}"), start, size)
        size = None
    return {}


def damaged(source: ByteSource, code: Code, message: str, found: object) -> CheckpointError:
    """The error for a tar that torch did not write."""
    return CheckpointError(
        f"damaged tar checkpoint: {message}", code=code, file=source.name, found=found, hint="copy or download it again"
    )


def _header(source: ByteSource, header: bytes, position: int) -> tuple[str, bytes, int]:
    """Name, type and size of a member."""
    # Every byte is under the checksum, its own field as if it were spaces.
    total = sum(header) - sum(header[_CHECKSUM]) + 8 * 0x20
    if header[257:265] != _MAGIC and header[257:265] != b"ustar  \0":
        raise damaged(source, Code.TAR_HEADER, f"no header at byte {position}", repr(header[257:265]))
    if header[_CHECKSUM] != b"%06o\0 " % total:
        raise damaged(
            source, Code.TAR_HEADER, f"the checksum of the header at byte {position} is wrong", repr(header[_CHECKSUM])
        )
    size = header[_SIZE]
    if size[0] == 0x80:
        number = int.from_bytes(size[1:], "big")
    elif _OCTAL.fullmatch(size):
        number = int(size.rstrip(b" \0"), 8)
    else:
        raise damaged(source, Code.TAR_HEADER, f"the size in the header at byte {position} is no number", repr(size))
    parts = (part.partition(b"\0")[0].decode("utf-8", "replace") for part in (header[345:500], header[:100]))
    return "/".join(filter(None, parts)), header[156:157], number


def _size_in_records(source: ByteSource, data: bytes, size: int) -> int | None:
    """The size that pax records give to the member after them; None if they give none."""
    position, found = 0, None
    while position < size:
        record = _RECORD.match(data, position)
        if record is None or int(record[1]) != len(record[0]):
            raise damaged(source, Code.TAR_HEADER, "a pax record is not one", repr(data[position:][:40]))
        if record[2] == b"size" and found is None and re.fullmatch(rb"\d{1,18}", record[3]):
            found = int(record[3])
        elif record[2] not in _IDLE_RECORDS:
            raise damaged(source, Code.TAR_HEADER, "a pax record that torch does not write", repr(record[0][:40]))
        position = record.end()
    return found


def _check_end(source: ByteSource, position: int) -> None:
    """After a block of zeros come only zeros, another block of them at least."""
    left = source.size - position
    if left < 2 * _BLOCK:
        raise damaged(source, Code.TAR_TRUNCATED, "it ends without the blocks of zeros that end it", position)
    if left > _MAX_END or any(source.read(position, left)):
        raise damaged(source, Code.TAR_TRAILING, "bytes follow its end", f"{left} after byte {position}")
