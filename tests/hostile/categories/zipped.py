"""Categories 31 to 56: the zip around a checkpoint."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from qkvinspect.error_codes import Code
from tests.hostile import seeds
from tests.hostile.categories.case import Case, Huge, Makers, Reads, Refused
from tests.hostile.writers.zips import (
    CENTRAL,
    END,
    Member,
    Values,
    archive,
    torch_archive,
    torch_members,
)

PLAIN = seeds.PICKLES["plain"]
SOUND = Reads({"weight": seeds.FLOATS, "index": seeds.LONGS[8:]})
WHOLE = seeds.ZIPS["torch"]
MEMBERS = torch_members(PLAIN, seeds.KEYS)
READ = ("data.pkl", "byteorder", "version", "data/0", "data/1")
"""Entries without which the tensors cannot be read as they were written."""
SHORT = {member.name.decode().removeprefix("archive/"): member for member in MEMBERS}


def _changed(entry: str, /, **changes: object) -> bytes:
    """The archive with one entry written otherwise."""
    full = f"archive/{entry}".encode()
    return archive([replace(member, **changes) if member.name == full else member for member in MEMBERS])


def _without(*names: str) -> bytes:
    gone = {f"archive/{name}".encode() for name in names}
    return archive([member for member in MEMBERS if member.name not in gone])


def _with(*more: Member) -> bytes:
    return archive([*MEMBERS, *more])


def _end(**fields: int | bytes) -> bytes:
    return archive(MEMBERS, end=fields)


def no_end_record() -> Iterator[Case]:
    start = len(WHOLE) - END.size
    for count in range(1, END.size + 1):
        yield Case(
            f"the last {count} bytes missing", partial(WHOLE.__getitem__, slice(-count)), Refused(Code.ZIP_NO_END)
        )
    for place in range(4):
        for bit in range(8):
            broken = bytearray(WHOLE)
            broken[start + place] ^= 1 << bit
            label = f"bit {bit} of byte {place} of its signature is wrong"
            yield Case(label, partial(bytes, bytes(broken)), Refused(Code.ZIP_NO_END))
    for label, junk in {"zeros": bytes(END.size), "spaces": b" " * END.size, "nothing": b""}.items():
        yield Case(f"{label} instead of it", partial(bytes, WHOLE[:start] + junk), Refused(Code.ZIP_NO_END))


def truncated() -> Iterator[Case]:
    last = len(WHOLE) - END.size
    for size in (4, 5, 29, 30, 31, 46, 100, *range(128, last, 48)):
        yield Case(f"its first {size} bytes", partial(WHOLE.__getitem__, slice(size)), Refused(Code.ZIP_NO_END))
    for size in (1, 2, 3):
        yield Case(f"its first {size} bytes", partial(WHOLE.__getitem__, slice(size)), Refused(Code.NOT_A_CHECKPOINT))
    for size in (1, 16, 64, 300, 1000):
        yield Case(
            f"its first {size} bytes missing",
            partial(WHOLE.__getitem__, slice(size, None)),
            Refused(Code.NOT_A_CHECKPOINT),
        )


def prepended() -> Iterator[Case]:
    junk = {
        "a zero": b"\0",
        "a newline": b"\n",
        "a shell": b"#!/bin/sh\nexit 0\n",
        "a Windows program": b"MZ" + bytes(62),
    }
    junk |= {"a span marker": b"PK\x07\x08", "half a page": bytes(2048)}
    for label, before in junk.items():
        yield Case(
            f"{label} before it, offsets right",
            partial(archive, MEMBERS, before=before),
            Refused(Code.NOT_A_CHECKPOINT),
        )
        yield Case(f"{label} before it, offsets not", partial(bytes, before + WHOLE), Refused(Code.NOT_A_CHECKPOINT))
    header = b"PK\x03\x04" + bytes(26)
    for size in (0, 1, 26, 100, 4096):
        before = header + bytes(size)
        build = partial(archive, MEMBERS, before=before)
        yield Case(
            f"an entry of {size} bytes that is not in the directory, first",
            build,
            Refused(Code.ZIP_PREPENDED),
            "it reads by the directory alone",
        )
        yield Case(
            f"the same of {size} bytes, offsets not right", partial(bytes, before + WHOLE), Refused(Code.ZIP_PLACE)
        )


def appended() -> Iterator[Case]:
    junk = {f"{count} zeros": bytes(count) for count in (1, 2, 21, 22, 512, 65_000)}
    junk |= {"a newline": b"\n", "a local header": b"PK\x03\x04" + bytes(26), "text": b"hello"}
    for label, after in junk.items():
        yield Case(
            f"{label} behind it",
            partial(archive, MEMBERS, after=after),
            Refused(Code.ZIP_TRAILING),
            "it looks for an end record further up",
        )
    yield Case("a signature behind it", partial(archive, MEMBERS, after=b"PK\x05\x06"), Refused(Code.ZIP_NO_END))
    for count in (70_000, 1 << 20):
        yield Case(f"{count} zeros behind it", partial(archive, MEMBERS, after=bytes(count)), Refused(Code.ZIP_NO_END))
    yield Case("the whole file twice", partial(bytes, WHOLE + WHOLE), Refused(Code.ZIP_PLACE))
    other = torch_archive(seeds.PICKLES["ordered"], seeds.KEYS)
    yield Case("another checkpoint behind it", partial(bytes, WHOLE + other), Refused(Code.ZIP_PLACE))
    for comment in (b"x", b"a comment", bytes(1000)):
        yield Case(f"a comment of {len(comment)} bytes", partial(archive, MEMBERS, comment=comment), SOUND)
    for said in (1, 5, 0xFFFF):
        yield Case(
            f"a comment of {said} bytes that is not there", partial(_end, comment=said), Refused(Code.ZIP_TRAILING)
        )
    hidden = archive(MEMBERS, comment=b"PK\x05\x06" + bytes(18))
    yield Case("an end record within the comment", partial(bytes, hidden), Refused(Code.ZIP_PLACE))


def checksums() -> Iterator[Case]:
    for name in READ:
        member = SHORT[name]
        for at in sorted({0, 1, len(member.content) // 2, len(member.content) - 1}):
            for bit in (0, 7):
                content = bytearray(member.content)
                content[at] ^= 1 << bit
                truth: Values = {"crc": zlib.crc32(member.content)}
                label = f"bit {bit} of byte {at} of {name} is wrong"
                yield Case(
                    label, partial(_changed, name, content=bytes(content), fields=truth), Refused(Code.ZIP_CHECKSUM)
                )
        for crc in (1, zlib.crc32(member.content) ^ 1, 0xFFFFFFFF):
            yield Case(
                f"{name} has the checksum {crc:08x}",
                partial(_changed, name, fields={"crc": crc}),
                Refused(Code.ZIP_CHECKSUM),
            )
            for side in ("central", "local"):
                build = partial(_changed, name, **{side: {"crc": crc}})
                yield Case(f"{name} has the checksum {crc:08x} in its {side} header", build, Refused(Code.ZIP_MISMATCH))
    none = [replace(member, fields={"crc": 0}) for member in MEMBERS]
    reads = replace(SOUND, findings=("no-checksums",))
    yield Case("no entry has a checksum, as torch can be told", partial(archive, none), reads)


ENCRYPTED = (0, 6, 13)


def flags_central() -> Iterator[Case]:
    for name in READ:
        for bit in range(16):
            code = Code.ZIP_ENCRYPTED if bit in ENCRYPTED else Code.ZIP_MISMATCH
            build = partial(_changed, name, central={"flags": 1 << bit})
            yield Case(f"flag {bit} of {name} in the directory alone", build, Refused(code))


def flags_local() -> Iterator[Case]:
    for name in READ:
        for bit in range(16):
            build = partial(_changed, name, local={"flags": 1 << bit})
            yield Case(f"flag {bit} of {name} in its own header alone", build, Refused(Code.ZIP_MISMATCH))
        for bit in ENCRYPTED:
            build = partial(_changed, name, fields={"flags": 1 << bit})
            yield Case(f"flag {bit} of {name} in both headers", build, Refused(Code.ZIP_ENCRYPTED))
        for bit in (1, 2, 3, 11):
            build = partial(_changed, name, fields={"flags": 1 << bit})
            yield Case(f"flag {bit} of {name}, which means nothing here, in both headers", build, SOUND)


def names() -> Iterator[Case]:
    for name in READ:
        full = f"archive/{name}"
        others = {
            "another of the same length": full[:-1] + "x",
            "a longer one": full + "x",
            "a shorter one": full[:-1],
            "no name": "",
            "capitals": full.upper(),
            "another folder": f"brchive/{name}",
            "a backslash": full.replace("/", "\\"),
            "one that leads out": f"../{name}",
            "that of another entry": "archive/.format_version",
        }
        for label, other in others.items():
            build = partial(_changed, name, local_name=other.encode())
            overlaps = len(other) < len(full) and not name.startswith("data/")
            code = Code.ZIP_OVERLAP if overlaps else Code.ZIP_MISMATCH
            yield Case(f"{label} in the header of {name} itself", build, Refused(code))
        for raw in (b"\xff", b"\xc3", b"archive/data/\x80"):
            build = partial(_changed, name, name=raw, local_name=raw)
            yield Case(f"{name} is called {raw!r}", build, Refused(Code.ZIP_NAME))


def sizes() -> Iterator[Case]:
    for name in READ:
        size = len(SHORT[name].content)
        for wrong in (0, 1, size - 1, size + 1, 2 * size):
            if wrong == size:
                continue
            for field in ("stored", "size"):
                both = partial(_changed, name, fields={field: wrong})
                overlaps = field == "stored" and wrong > size + name.startswith("data/")
                code = Code.ZIP_OVERLAP if overlaps else Code.ZIP_COMPRESSED
                yield Case(f"{field} of {name} is {wrong} in both headers", both, Refused(code))
                own = partial(_changed, name, local={field: wrong})
                yield Case(f"{field} of {name} is {wrong} in its own header", own, Refused(Code.ZIP_MISMATCH))


def methods() -> Iterator[Case]:
    for method in (1, 2, 5, 6, 7, 9, 10, 11, 12, 14, 19, 93, 95, 97, 98, 99, 0xFFFF):
        for name in READ:
            build = partial(_changed, name, fields={"method": method})
            yield Case(f"method {method} of {name}", build, Refused(Code.ZIP_COMPRESSED))
    for name in READ:
        for method in (8, 12):
            build = partial(_changed, name, local={"method": method})
            yield Case(f"method {method} of {name} in its own header alone", build, Refused(Code.ZIP_MISMATCH))


def deflate(content: bytes) -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    return made.compress(content) + made.flush()


def _deflated(name: str, level: bytes | None = None, size: int | None = None) -> bytes:
    content = SHORT[name].content
    packed = deflate(content) if level is None else level
    fields = {"method": 8, "crc": zlib.crc32(content), "size": len(content) if size is None else size}
    return _changed(name, content=packed, fields=fields)


def deflated() -> Iterator[Case]:
    why = "it unpacks; a reader that maps the file would take the packed bytes for numbers"
    for name in READ:
        yield Case(f"{name} is deflated", partial(_deflated, name), Refused(Code.ZIP_COMPRESSED), why)
        stored = (
            b"\x01"
            + struct.pack("<2H", len(SHORT[name].content), 0xFFFF ^ len(SHORT[name].content))
            + SHORT[name].content
        )
        yield Case(
            f"{name} is deflated without gain", partial(_deflated, name, stored), Refused(Code.ZIP_COMPRESSED), why
        )
        yield Case(
            f"{name} says that it is deflated and is not",
            partial(_deflated, name, SHORT[name].content),
            Refused(Code.ZIP_COMPRESSED),
        )


def bombs() -> Iterator[Case]:
    zeros = deflate(bytes(1 << 22))
    for name in READ:
        for size in (1 << 22, 1 << 30, 0xFFFFFFFE):
            build = partial(_deflated, name, zeros, size)
            code = {"byteorder": Code.ZIP_BYTEORDER, "version": Code.ZIP_VERSION}.get(name, Code.ZIP_COMPRESSED)
            if name == "data.pkl" and size > 1 << 22:
                code = Code.LIMIT_PICKLE
            yield Case(f"{len(zeros)} bytes of {name} unpack to {size}", build, Refused(code))
    huge = Member(
        b"archive/data/0",
        b"",
        central={"stored": 0xFFFFFFFF, "size": 0xFFFFFFFF},
        central_extra=struct.pack("<2H2Q", 1, 16, 1 << 50, 1 << 50),
    )
    yield Case("an entry of 2^50 bytes", partial(archive, [*MEMBERS[:4], huge]), Refused(Code.ZIP_RANGE))
    build = partial(_big_pickle, 200_000_000)
    yield Case("a pickle of 200 MB of zeros", build, Refused(Code.LIMIT_PICKLE))


def _big_pickle(size: int) -> Huge:
    """A sparse file: the pickle's zeros take no memory here, so must not there."""
    name = b"archive/data.pkl"
    local = archive([Member(name, b"", fields={"crc": 1, "stored": size, "size": size})])
    head, tail = local[: 30 + len(name)], bytearray(local[30 + len(name) :])
    struct.pack_into("<L", tail, len(tail) - END.size + 16, len(head) + size)

    return _sparse(head, bytes(tail), len(head) + size)


def quoted_overlaps() -> Iterator[Case]:
    offsets = _offsets()
    for name in READ:
        for other in READ:
            if other != name:
                build = partial(_changed, name, central={"header": offsets[other]})
                code = Code.ZIP_PREPENDED if name == "data.pkl" else Code.ZIP_OVERLAP
                yield Case(f"{name} has the header of {other}", build, Refused(code))
    kernel = bytes(4096)
    members = [*MEMBERS, *(Member(b"archive/data/%d" % n, kernel, central={"header": 0}) for n in range(2, 6))]
    yield Case("four entries over the first", partial(archive, members), Refused(Code.ZIP_OVERLAP))
    quoting = []
    for n in range(2, 12):
        inner = sum(len(member.name) + 30 for member in quoting)
        quoting.append(
            Member(
                b"archive/data/%02d" % n, b"", fields={"stored": 60 * (12 - n) + inner, "size": 60 * (12 - n) + inner}
            )
        )
    yield Case(
        "each entry quotes the headers behind it",
        partial(archive, [*MEMBERS, *quoting, Member(b"archive/x", kernel)]),
        Refused(Code.ZIP_OVERLAP),
    )


def _offsets() -> dict[str, int]:
    found, position = {}, 0
    for member in MEMBERS:
        found[member.name.decode().removeprefix("archive/")] = position
        position += 30 + len(member.name) + len(member.local_extra) + len(member.content)
    return found


def _zip64(end64: Values | None = None, locator: Values | None = None, end: Values | None = None) -> bytes:
    return archive(MEMBERS, end64=end64 or {}, locator=locator or {}, end=end)


def zip64() -> Iterator[Case]:
    yield Case("both zip64 records, sound", _zip64, SOUND)
    wide: Values = {"count": 0xFFFF, "here": 0xFFFF, "length": 0xFFFFFFFF, "start": 0xFFFFFFFF}
    yield Case("numbers in the zip64 record alone", partial(_zip64, end=wide), SOUND)
    for offset in (0, 1, len(WHOLE), len(WHOLE) * 2, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
        yield Case(
            f"a zip64 end record at {offset}", partial(_zip64, locator={"offset": offset}), Refused(Code.ZIP_END64)
        )
    for signature in (b"PK\x06\x05", b"PK\0\0", b"\0\0\0\0", b"PK\x05\x06", b"PK\x01\x02"):
        yield Case(
            f"a zip64 end record that begins {signature!r}",
            partial(_zip64, {"signature": signature}),
            Refused(Code.ZIP_END64),
        )
    for record in (0, 1, 43, 45, 1 << 32, (1 << 64) - 1):
        yield Case(
            f"a zip64 end record of {record} bytes", partial(_zip64, {"record": record}), Refused(Code.ZIP_END64)
        )
    count = len(MEMBERS)
    for field, wrong in (
        ("count", count + 1),
        ("count", 0),
        ("here", 0),
        ("length", 1),
        ("start", 1),
        ("length", 1 << 63),
        ("start", 1 << 62),
    ):
        yield Case(
            f"{field} {wrong} in the zip64 record alone", partial(_zip64, {field: wrong}), Refused(Code.ZIP_END64)
        )
    for field, value in (("disk", 1), ("first_disk", 1), ("disk", 0xFFFFFFFF)):
        yield Case(f"{field} {value} in the zip64 record", partial(_zip64, {field: value}), Refused(Code.ZIP_SPLIT))
    for name in READ:
        build = partial(_changed, name, central={"stored": 0xFFFFFFFF, "size": 0xFFFFFFFF})
        yield Case(f"{name} lacks its zip64 sizes", build, Refused(Code.ZIP_RANGE))
        for extra in (b"\1\0", b"\1\0\x08\0" + bytes(8), b"\1\0\xff\xff" + bytes(16), b"\2\0\x10\0" + bytes(16)):
            build = partial(_changed, name, central={"stored": 0xFFFFFFFF, "size": 0xFFFFFFFF}, central_extra=extra)
            yield Case(f"{name} has the zip64 sizes {extra[:6].hex()}", build, Refused(Code.ZIP_SIZES64))
        sound = struct.pack("<2H2Q", 1, 16, *[len(SHORT[name].content)] * 2)
        build = partial(_changed, name, central={"stored": 0xFFFFFFFF, "size": 0xFFFFFFFF}, central_extra=sound)
        yield Case(f"{name} has its sizes in a zip64 field", build, SOUND)


OFF = {
    ("data/0", 1): Code.ZIP_LOCAL,
    ("data/0", 30): Code.ZIP_LOCAL,
    ("data/1", 1): Code.ZIP_LOCAL,
    ("data/1", -1): Code.ZIP_RANGE,
    ("version", -1): Code.ZIP_LOCAL,
}
"""What is seen first where an entry begins a few bytes off; elsewhere it runs into the next."""


def offsets_past_the_end() -> Iterator[Case]:
    for name in READ:
        for offset in (len(WHOLE), len(WHOLE) + 1, 1 << 31, 0xFFFFFFFE):
            build = partial(_changed, name, central={"header": offset})
            first = name == "data.pkl"
            yield Case(f"{name} at {offset}", build, Refused(Code.ZIP_PREPENDED if first else Code.ZIP_RANGE))
        for more in (1, 30, -1):
            place = _offsets()[name] + more
            if place > 0:
                code = Code.ZIP_PREPENDED if name == "data.pkl" else OFF.get((name, more), Code.ZIP_OVERLAP)
                yield Case(
                    f"{name} {more} bytes off", partial(_changed, name, central={"header": place}), Refused(code)
                )
    for field, value in (
        ("start", 0),
        ("start", 1),
        ("start", 1 << 31),
        ("length", 0),
        ("length", 1),
        ("length", 0xFFFFFFFE),
    ):
        yield Case(f"a directory whose {field} is {value}", partial(_end, **{field: value}), Refused(Code.ZIP_PLACE))
    for count in (0, 1, len(MEMBERS) - 1):
        yield Case(f"an end record of {count} entries", partial(_end, count=count, here=count), Refused(Code.ZIP_COUNT))
    for count in (len(MEMBERS) + 1, 0xFFFE):
        yield Case(
            f"an end record of {count} entries", partial(_end, count=count, here=count), Refused(Code.ZIP_DIRECTORY)
        )
    for field in ("disk", "first_disk", "here"):
        yield Case(f"{field} 1 in the end record", partial(_end, **{field: 1}), Refused(Code.ZIP_SPLIT))
    start = len(WHOLE) - END.size - sum(CENTRAL.size + len(member.name) for member in MEMBERS)
    for place in range(4):
        broken = bytearray(WHOLE)
        broken[start + place] ^= 1
        yield Case(
            f"byte {place} of the directory's signature is wrong",
            partial(bytes, bytes(broken)),
            Refused(Code.ZIP_DIRECTORY),
        )


def duplicates() -> Iterator[Case]:
    for name, member in SHORT.items():
        for label, content in (
            ("the same", member.content),
            ("other bytes", bytes(len(member.content))),
            ("no bytes", b""),
        ):
            again = Member(member.name, content)
            for where, members in (("last", [*MEMBERS, again]), ("first", [again, *MEMBERS])):
                yield Case(
                    f"{name} twice, {label} {where}",
                    partial(archive, members),
                    Refused(Code.ZIP_DUPLICATE),
                    "it takes one of the two",
                )


def two_prefixes() -> Iterator[Case]:
    for folder in (b"brchive", b"archive2", b"Archive", b"archive ", b"", b"."):
        for rest in (b"data/0", b"version", b"x"):
            build = partial(_with, Member(folder + b"/" + rest, b"3\n"))
            yield Case(
                f"an entry {folder + b'/' + rest!r} too",
                build,
                Refused(Code.ZIP_PICKLE),
                "it takes the folder of the first entry",
            )
    for name, text in ((b"version", b"99"), (b"byteorder", b"big"), (b"x", b""), (b"data.pkl", PLAIN), (b"0", b"")):
        build = partial(_with, Member(name, text))
        reads = replace(SOUND, findings=("unknown-entries",))
        yield Case(f"an entry {name!r} outside the folder", build, reads)


def two_pickles() -> Iterator[Case]:
    for folder in (b"other", b"a", b"z", b"Archive"):
        for content in (PLAIN, seeds.PICKLES["ordered"], b""):
            for where in (0, len(MEMBERS)):
                members = list(MEMBERS)
                members.insert(where, Member(folder + b"/data.pkl", content))
                label = f"{folder.decode()}/data.pkl of {len(content)} bytes too, {'last' if where else 'first'}"
                yield Case(
                    label, partial(archive, members), Refused(Code.ZIP_PICKLE), "it takes the folder of the first entry"
                )
    for name in (b"archive/DATA.PKL", b"archive/x/data.pkl", b"archive/data.pkl "):
        reads = replace(SOUND, findings=("unknown-entries",))
        yield Case(f"an entry {name!r} too", partial(_with, Member(name, PLAIN)), reads)


def no_pickle() -> Iterator[Case]:
    yield Case("data.pkl left out", partial(_without, "data.pkl"), Refused(Code.ZIP_PICKLE))
    for name in (
        b"archive/data.pk",
        b"archive/Data.pkl",
        b"data.pkl",
        b"archive/a/data.pkl",
        b"archive/data.pkl/",
        b"/data.pkl",
    ):
        build = partial(archive, [Member(name, PLAIN), *MEMBERS[1:]])
        yield Case(f"{name!r} instead of data.pkl", build, Refused(Code.ZIP_PICKLE))
    yield Case(
        "a zip without entries, and something before it",
        partial(archive, [], before=b"PK\x03\x04"),
        Refused(Code.ZIP_PICKLE),
    )
    yield Case("a zip without entries", partial(archive, []), Refused(Code.NOT_A_CHECKPOINT))
    yield Case("a zip of a text", partial(archive, [Member(b"readme.txt", b"hello")]), Refused(Code.ZIP_PICKLE))


def versions() -> Iterator[Case]:
    yield Case("no version", partial(_without, "version"), replace(SOUND, findings=("no-version",)))
    for text in (
        b"99",
        b"11",
        b"100",
        b"0",
        b"00",
        b"",
        b"-1",
        b"3.0",
        b"x",
        b"\xff",
        b"3\n4",
        b"9" * 100,
        "３".encode(),
    ):
        build = partial(_changed, "version", content=text)
        yield Case(f"version {text[:10]!r}", build, Refused(Code.ZIP_VERSION))
    for text in (b"1", b"2", b"3", b"3\n", b"10", b"10\n"):
        yield Case(f"version {text!r}", partial(_changed, "version", content=text), SOUND)


def byte_orders() -> Iterator[Case]:
    yield Case("no byteorder", partial(_without, "byteorder"), SOUND)
    for text in (
        b"",
        b"Little",
        b"LITTLE",
        b"little\n",
        b" little",
        b"middle",
        b"\xff",
        b"l",
        b"bigg",
        b"1",
        b"little\0",
        bytes(5000),
    ):
        build = partial(_changed, "byteorder", content=text)
        yield Case(f"byteorder {text[:10]!r}", build, Refused(Code.ZIP_BYTEORDER))
    big = _big_endian()
    yield Case("byteorder big, and so are the numbers", partial(bytes, big), SOUND)


def _big_endian() -> bytes:
    swapped = {
        "0": b"".join(seeds.FLOATS[at : at + 4][::-1] for at in range(0, 64, 4)),
        "1": b"".join(seeds.LONGS[at : at + 8][::-1] for at in range(0, 32, 8)),
    }
    members = torch_members(PLAIN, swapped)
    return archive([replace(m, content=b"big") if m.name == b"archive/byteorder" else m for m in members])


def alignments() -> Iterator[Case]:
    for text in (b"0", b"-1", b"x", b"", b"63", b"1e9", b"9" * 50, b"\xff", b"64\n", b"1", b"65536"):
        build = partial(_changed, ".storage_alignment", content=text)
        number = text in (b"63", b"1", b"65536")
        reads = SOUND if number else replace(SOUND, findings=("bad-alignment",))
        yield Case(f".storage_alignment {text[:10]!r}, which places do not depend on", build, reads)
    yield Case("no .storage_alignment", partial(_without, ".storage_alignment"), SOUND)
    for alignment in (1, 2, 3, 7, 64, 4096):
        members = torch_members(PLAIN, seeds.KEYS, alignment=alignment)
        yield Case(f"storages at multiples of {alignment}", partial(archive, members), SOUND)


def storages_missing() -> Iterator[Case]:
    for key in seeds.KEYS:
        yield Case(f"data/{key} left out", partial(_without, f"data/{key}"), Refused(Code.STORAGE_MISSING))
        for other in (
            f"data/0{key}",
            f"data/{key} ",
            f"data/{key}/",
            f"data//{key}",
            f"Data/{key}",
            f"data/{key}.bin",
            f"data/+{key}",
            f"data\\{key}",
        ):
            name = f"archive/{other}".encode()
            member = replace(SHORT[f"data/{key}"], name=name)
            full = f"archive/data/{key}".encode()
            build = partial(archive, [member if m.name == full else m for m in MEMBERS])
            yield Case(f"{other} instead of data/{key}", build, Refused(Code.STORAGE_MISSING))
    for key, content in seeds.KEYS.items():
        more = Member(f"archive/DATA/{key}".encode(), bytes(len(content)))
        reads = replace(SOUND, findings=("unknown-entries",))
        for where in (0, len(MEMBERS)):
            members = list(MEMBERS)
            members.insert(where, more)
            yield Case(f"DATA/{key} of zeros too, {'last' if where else 'first'}", partial(archive, members), reads)
    yield Case("no storage at all", partial(_without, "data/0", "data/1"), Refused(Code.STORAGE_MISSING))


def storage_sizes() -> Iterator[Case]:
    for key, content in seeds.KEYS.items():
        for size in (0, 1, len(content) - 8, len(content) - 1, len(content) + 1, len(content) + 8, 4 * len(content)):
            other = (content * 4)[:size]
            label = f"data/{key} has {size} bytes instead of {len(content)}"
            yield Case(label, partial(_changed, f"data/{key}", content=other), Refused(Code.STORAGE_SIZE))


LINK, FOLDER = 0o120777 << 16, 0o040755 << 16


def traversals() -> Iterator[Case]:
    unknown = replace(SOUND, findings=("unknown-entries",))
    for name in (
        "../x",
        "data.pkl/../../x",
        "data/../../../etc/passwd",
        "/etc/passwd",
        "..\\x",
        "C:\\x",
        "~/x",
        "\x1b[31m",
        "\0",
        "a\nb",
    ):
        leaves = ("entries-lead-out",) * (".." in name or "\\" in name)
        reads = replace(SOUND, findings=leaves if name.startswith("data/") else (*unknown.findings, *leaves))
        build = partial(_with, Member(f"archive/{name}".encode(), b"x"))
        yield Case(f"an entry archive/{name!r}: nothing is unpacked", build, reads)
    for name in ("../archive/data/0", "/etc/passwd", "./archive/data/0", "C:/x"):
        build = partial(_with, Member(name.encode(), b"x"))
        yield Case(f"an entry {name!r}", build, Refused(Code.ZIP_PICKLE), "it takes the folder of the first entry")
    kinds = {"a link": LINK, "a pipe": 0o010644 << 16, "a device": 0o020644 << 16, "a socket": 0o140644 << 16}
    kinds |= {"a folder": FOLDER, "a folder of MS-DOS": 0x10}
    for name in READ:
        for label, kind in kinds.items():
            build = partial(_changed, name, central={"external": kind})
            yield Case(
                f"{name} is {label}",
                build,
                Refused(Code.ZIP_KIND),
                "it takes the content, or nothing, by its attributes",
            )
    for label, kind in (("a link", LINK), ("a folder", FOLDER)):
        more = Member(b"archive/data/2", b"/etc/passwd", central={"external": kind})
        yield Case(
            f"one more entry that is {label}",
            partial(_with, more),
            Refused(Code.ZIP_KIND),
            "it does not look at entries that no tensor needs",
        )


def many_entries() -> Iterator[Case]:
    def crowd(count: int) -> bytes:
        return archive(
            [*MEMBERS, *(Member(b"archive/data/x%d" % n) for n in range(count))],
            end64={},
            locator={},
            end={"count": 0xFFFF, "here": 0xFFFF},
        )

    for more in (20_000, 100_000):
        yield Case(f"{more + 7:,} entries", partial(crowd, more), SOUND)
    for count in (1_000_001, 1 << 32, (1 << 64) - 1):
        build = partial(_zip64, {"count": count, "here": count}, None, {"count": 0xFFFF, "here": 0xFFFF})
        yield Case(f"{count} entries are announced", build, Refused(Code.LIMIT_ENTRIES))
    length = 200_000_000
    sizes: Values = {"length": length, "start": 100}
    head = b"PK\x03\x04" + bytes(96)
    tail = archive(
        [], before=head, end64=sizes, locator={"offset": 100 + length}, end={"length": 0xFFFFFFFF, "start": 0xFFFFFFFF}
    )[100:]
    yield Case("a directory of 200 MB", partial(_sparse, head, tail, 100 + length), Refused(Code.LIMIT_HEADER))


def _sparse(head: bytes, tail: bytes, gap: int) -> Huge:
    class Sparse(Huge):
        def read(self, offset: int, length: int) -> bytes:
            if offset >= gap:
                return tail[offset - gap : offset - gap + length]
            before = super().read(offset, min(length, gap - offset))
            return before + tail[: length - len(before)]

    return Sparse(head, gap + len(tail))


TRUSTED = {
    33: "torch finds the directory from the end and does not look at what is before",
    34: "torch looks for an end record further up",
    35: "torch compares no checksum",
    36: "torch does not compare the two headers",
    37: "torch looks at no flag of an entry's own header",
    38: "torch looks for no name in an entry's own header",
    39: "torch takes the directory's word for sizes",
    40: "torch does not look at entries that it does not need",
    41: "torch unpacks; whoever maps the file takes the packed bytes for numbers",
    42: "torch does not look at entries that it does not need",
    43: "torch lets entries share bytes",
    44: "torch does not compare the two end records",
    45: "torch does not look at entries that it does not need",
    46: "torch takes the first of two",
    47: "torch takes the folder of the first entry",
    48: "torch takes the folder of the first entry",
    49: "torch takes capitals in names for small letters",
    50: "torch reads a version as a number, however it is written",
    53: "torch takes capitals in names for small letters",
    55: "torch does not look at what kind of file an entry is",
}
MAKERS: Makers = {
    31: no_end_record, 32: truncated, 33: prepended, 34: appended, 35: checksums, 36: flags_central, 37: flags_local,
    38: names, 39: sizes, 40: methods, 41: deflated, 42: bombs, 43: quoted_overlaps, 44: zip64,
    45: offsets_past_the_end, 46: duplicates, 47: two_prefixes, 48: two_pickles, 49: no_pickle, 50: versions,
    51: byte_orders, 52: alignments, 53: storages_missing, 54: storage_sizes, 55: traversals, 56: many_entries,
}  # fmt: skip
