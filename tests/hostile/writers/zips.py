"""Zip archives field by field: every number in every header can be made a lie."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LOCAL = struct.Struct("<4s5H3L2H")
LOCAL_FIELDS = ("signature", "needs", "flags", "method", "time", "date", "crc", "stored", "size", "name", "extra")
LOCAL_WIDTHS = (4, 2, 2, 2, 2, 2, 4, 4, 4, 2, 2)
CENTRAL = struct.Struct("<4s6H3L5H2L")
CENTRAL_FIELDS = (
    *("signature", "made_by", "needs", "flags", "method", "time", "date", "crc", "stored", "size"),
    *("name", "extra", "comment", "disk", "internal", "external", "header"),
)
CENTRAL_WIDTHS = (4, 2, 2, 2, 2, 2, 2, 4, 4, 4, 2, 2, 2, 2, 2, 4, 4)
END = struct.Struct("<4s4H2LH")
END_FIELDS = ("signature", "disk", "first_disk", "here", "count", "length", "start", "comment")
END_WIDTHS = (4, 2, 2, 2, 2, 4, 4, 2)
END64 = struct.Struct("<4sQ2H2L4Q")
END64_FIELDS = (
    *("signature", "record", "made_by", "needs", "disk", "first_disk"),
    *("here", "count", "length", "start"),
)
END64_WIDTHS = (4, 8, 2, 2, 4, 4, 8, 8, 8, 8)
LOCATOR = struct.Struct("<4sLQL")
LOCATOR_FIELDS = ("signature", "disk", "offset", "disks")
LOCATOR_WIDTHS = (4, 4, 8, 4)

Values = Mapping[str, "int | bytes"]


@dataclass(frozen=True)
class Member:
    """One entry.

    Attributes:
        content: what is stored.
        local, central: header fields that differ from what the content asks for; both headers if in ``fields``.
        local_extra, central_extra: the extra fields, whole.
        local_name: the name in the local header, if another.
        trailer: what follows the content, such as a data descriptor.
    """

    name: bytes
    content: bytes = b""
    fields: Values = field(default_factory=dict)
    local: Values = field(default_factory=dict)
    central: Values = field(default_factory=dict)
    local_extra: bytes = b""
    central_extra: bytes = b""
    local_name: bytes | None = None
    comment: bytes = b""
    trailer: bytes = b""


def _packed(layout: struct.Struct, names: Sequence[str], values: Values) -> bytes:
    return layout.pack(*(values.get(name, 0) for name in names))


def archive(
    members: Sequence[Member],
    *,
    before: bytes = b"",
    between: bytes = b"",
    after: bytes = b"",
    comment: bytes = b"",
    end: Values | None = None,
    end64: Values | None = None,
    locator: Values | None = None,
) -> bytes:
    """A zip.

    Args:
        before, between, after: bytes before the first entry, before the directory, and behind the end.
        end, end64, locator: fields of the end records that differ; the zip64 ones are only written where given.
    """
    out = bytearray(before)
    directory = bytearray()
    for member in members:
        header = len(out)
        true: dict[str, int | bytes] = {
            "needs": 20,
            "made_by": 20,
            "date": 33,
            "crc": zlib.crc32(member.content),
            "stored": len(member.content),
            "size": len(member.content),
            "comment": len(member.comment),
            "header": header,
            **member.fields,
        }
        name = member.name if member.local_name is None else member.local_name
        extra = member.local_extra
        own = {"signature": b"PK\x03\x04", **true, "name": len(name), "extra": len(extra), **member.local}
        out += _packed(LOCAL, LOCAL_FIELDS, own) + name + extra + member.content + member.trailer
        name, extra = member.name, member.central_extra
        own = {"signature": b"PK\x01\x02", **true, "name": len(name), "extra": len(extra), **member.central}
        directory += _packed(CENTRAL, CENTRAL_FIELDS, own) + name + extra + member.comment
    out += between
    start = len(out)
    out += directory
    extent: dict[str, int | bytes] = {
        "here": len(members),
        "count": len(members),
        "length": len(directory),
        "start": start,
    }
    if end64 is not None or locator is not None:
        place = len(out)
        own = {"signature": b"PK\x06\x06", "record": END64.size - 12, "needs": 45, **extent, **(end64 or {})}
        out += _packed(END64, END64_FIELDS, own)
        own = {"signature": b"PK\x06\x07", "offset": place, "disks": 1, **(locator or {})}
        out += _packed(LOCATOR, LOCATOR_FIELDS, own)
    own = {"signature": b"PK\x05\x06", **extent, "comment": len(comment), **(end or {})}
    return bytes(out) + _packed(END, END_FIELDS, own) + comment + after


def torch_members(
    data_pkl: bytes, storages: Mapping[str, bytes], *, prefix: str = "archive", alignment: int = 64
) -> list[Member]:
    """The entries that torch.save writes, each storage padded to ``alignment`` by its local extra field."""
    folder = f"{prefix}/".encode()
    members = [
        Member(folder + b"data.pkl", data_pkl),
        Member(folder + b".format_version", b"1"),
        Member(folder + b".storage_alignment", str(alignment).encode()),
        Member(folder + b"byteorder", b"little"),
    ]
    position = sum(LOCAL.size + len(member.name) + len(member.content) for member in members)
    for key, data in storages.items():
        name = folder + b"data/" + key.encode()
        begin = position + LOCAL.size + len(name) + 4
        padding = -begin % alignment
        extra = struct.pack("<2H", 0x4246, padding) + b"Z" * padding
        members.append(Member(name, data, local_extra=extra))
        position = begin + padding + len(data)
    members.append(Member(folder + b"version", b"3\n"))
    members.append(Member(folder + b".data/serialization_id", b"1" * 40))
    return members


def torch_archive(data_pkl: bytes, storages: Mapping[str, bytes], *, prefix: str = "archive") -> bytes:
    return archive(torch_members(data_pkl, storages, prefix=prefix))


def with_checksums(data: bytes) -> bytes:
    """The same bytes with the checksum of every entry that can be found made right, in both headers.

    Damage that a checksum alone would show is of little use to a fuzzer.
    """
    out = bytearray(data)
    at = out.find(b"PK\x01\x02")
    while 0 <= at <= len(out) - CENTRAL.size:
        fields = dict(zip(CENTRAL_FIELDS, CENTRAL.unpack_from(out, at), strict=True))
        header = fields["header"]
        if header + LOCAL.size <= len(out):
            own = dict(zip(LOCAL_FIELDS, LOCAL.unpack_from(out, header), strict=True))
            start = header + LOCAL.size + own["name"] + own["extra"]
            crc = struct.pack("<L", zlib.crc32(out[start : start + fields["stored"]]))
            out[at + 16 : at + 20] = crc
            out[header + 14 : header + 18] = crc
        at = out.find(b"PK\x01\x02", at + 4)
    return bytes(out)
