"""torch's format before 0.1.10: a tar with ``storages``, ``tensors`` and ``pickle``, written field by field."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.hostile.writers import pickles

BLOCK = 512
FIELDS: tuple[tuple[str, int], ...] = (
    *(("name", 100), ("mode", 8), ("uid", 8), ("gid", 8), ("size", 12), ("mtime", 12), ("checksum", 8), ("type", 1)),
    *(("linkname", 100), ("magic", 8), ("uname", 32), ("gname", 32), ("major", 8), ("minor", 8), ("prefix", 155)),
)


@dataclass(frozen=True)
class Member:
    """One entry; ``fields`` are raw bytes that stand in its header instead of the usual."""

    name: str
    content: bytes = b""
    fields: Mapping[str, bytes] = field(default_factory=dict)


def _header(member: Member) -> bytes:
    values = {
        "name": member.name.encode(),
        "mode": b"0000644\0",
        "uid": b"0000000\0",
        "gid": b"0000000\0",
        "size": b"%011o\0" % len(member.content),
        "mtime": b"%011o\0" % 0,
        "type": b"0",
        "magic": b"ustar\x0000",
        **member.fields,
    }
    raw = bytearray(b"".join(values.get(name, b"").ljust(width, b"\0")[:width] for name, width in FIELDS))
    raw += bytes(BLOCK - len(raw))
    raw[148:156] = values.get("checksum", checksum(raw))
    return bytes(raw)


def checksum(header: bytes | bytearray) -> bytes:
    """Of a header block, its own field taken as spaces."""
    return b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 0x20)


def archive(members: Sequence[Member], end: bytes = bytes(2 * BLOCK)) -> bytes:
    return b"".join(_header(m) + m.content + bytes(-len(m.content) % BLOCK) for m in members) + end


def with_checksums(data: bytes) -> bytes:
    """The same bytes with the checksum of every block that looks like a header made right."""
    out = bytearray(data)
    for start in range(0, len(out) - BLOCK + 1, BLOCK):
        if out[start + 257 : start + 262] == b"ustar":
            out[start + 148 : start + 156] = checksum(out[start : start + BLOCK])
    return bytes(out)


@dataclass(frozen=True)
class Storage:
    """A storage, by the number that the file knows it by."""

    key: int
    kind: str
    numel: int
    content: bytes
    location: str = "cpu"


@dataclass(frozen=True)
class View:
    """Some elements of another storage."""

    key: int
    root: int
    offset: int
    numel: int


@dataclass(frozen=True)
class Tensor:
    """A tensor on a storage; ``ndim`` is what the file says, if not the truth."""

    key: int
    storage: int
    size: Sequence[int]
    stride: Sequence[int]
    offset: int = 0
    kind: str = "FloatTensor"
    ndim: int | None = None


def storages(stored: Sequence[Storage], views: Sequence[View] = (), count: int | None = None) -> bytes:
    """The member of that name."""
    out = pickles.whole(pickles.number(len(stored) if count is None else count))
    for storage in stored:
        kind = pickles.name("torch", storage.kind)
        fields = pickles.row(pickles.number(storage.key), pickles.text(storage.location), kind)
        out += pickles.whole(fields) + struct.pack("<q", storage.numel) + storage.content
    listed = (pickles.numbers((view.key, view.root, view.offset, view.numel)) for view in views)
    return out + pickles.whole(pickles.items(*listed))


def tensors(described: Sequence[Tensor], count: int | None = None) -> bytes:
    """The member of that name."""
    out = pickles.whole(pickles.number(len(described) if count is None else count))
    for tensor in described:
        kind = pickles.name("torch", tensor.kind)
        out += pickles.whole(pickles.row(pickles.number(tensor.key), pickles.number(tensor.storage), kind))
        ndim = len(tensor.size) if tensor.ndim is None else tensor.ndim
        out += struct.pack("<2i", ndim, 0)
        out += struct.pack(f"<{len(tensor.size)}q", *tensor.size) + struct.pack(
            f"<{len(tensor.stride)}q", *tensor.stride
        )
        out += struct.pack("<q", tensor.offset)
    return out


def reference(key: int) -> bytes:
    """How the ``pickle`` member names a tensor or storage."""
    return pickles.text(str(key)) + b"Q"
