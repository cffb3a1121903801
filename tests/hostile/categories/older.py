"""Categories 83 to 92: torch's formats before 1.6 and before 0.1.10."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from qkvinspect.error_codes import Code
from tests.hostile import seeds
from tests.hostile.categories.case import Case, Makers, Reads, Refused
from tests.hostile.writers import pickles, tars
from tests.hostile.writers.legacy import MAGIC, PROTOCOL, SYSTEM, Storage, legacy
from tests.hostile.writers.pickles import items, named, number, row, storage, tensor, text, whole

ROOT = seeds.LEGACY_PICKLES["torch"]
STORED = seeds.LEGACY_STORAGES
SOUND = Reads({"weight": seeds.FLOATS, "index": seeds.LONGS[8:]})
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


def _file(
    stored: Sequence[Storage] = STORED,
    root: bytes = ROOT,
    magic: bytes = MAGIC,
    protocol: bytes = PROTOCOL,
    system: bytes = SYSTEM,
    keys: bytes | None = None,
    after: bytes = b"",
) -> bytes:
    return legacy(root, stored, magic=magic, protocol=protocol, system=system, keys=keys, after=after)


def wrong_magic() -> Iterator[Case]:
    for place in range(len(MAGIC) - 1):
        for bit in (0, 7):
            broken = bytearray(MAGIC)
            broken[place] ^= 1 << bit
            code = Code.IS_BARE_PICKLE if place else Code.NOT_A_CHECKPOINT
            outcome = SOUND if (place, bit) == (1, 0) else Refused(code)  # protocol 3 in place of 2
            yield Case(
                f"bit {bit} of byte {place} of the magic number is wrong",
                partial(_file, magic=bytes(broken)),
                outcome,
            )
    for value in (0, 1, MAGIC_NUMBER + 1, -MAGIC_NUMBER):
        yield Case(
            f"the magic number {value}", partial(_file, magic=whole(number(value))), Refused(Code.IS_BARE_PICKLE)
        )
    yield Case("no magic number", partial(_file, magic=b""), Refused(Code.IS_BARE_PICKLE))
    yield Case("no STOP behind the magic number", partial(_file, magic=MAGIC[:-1]), Refused(Code.PICKLE_STOP))


def computed_magic() -> Iterator[Case]:
    start = MAGIC[:-1]
    for label, more in {
        "negated by another": b"0" + number(1),
        "in a tuple": b"\x85",
        "a call of it": b"0cos\nsystem\n)R",
        "a state of it": b"0cm\nC\n)R}b",
        "in a list": b"0](" + start[2:] + b"e",
        "text": b"0" + text(str(MAGIC_NUMBER)),
    }.items():
        yield Case(
            f"a magic number that becomes something else: {label}",
            partial(_file, magic=start + more + b"."),
            Refused(Code.LEGACY_MAGIC),
        )
    for label, more in {"taken twice from the memo": b"q\x000h\0", "doubled and dropped": b"20"}.items():
        yield Case(
            f"a magic number {label}", partial(_file, magic=start + more + b"."), SOUND, "torch does not know DUP"
        )


def wrong_protocol() -> Iterator[Case]:
    for value in (0, 1, 1000, 1002, -1001, 2**31, 2**64, 2**100):
        yield Case(f"protocol {value}", partial(_file, protocol=whole(number(value))), Refused(Code.LEGACY_MAGIC))
    others = {
        "None": b"N",
        "True": b"\x88",
        "text": text("1001"),
        "a float": pickles.real(1001.0),
        "a list": items(number(1001)),
        "a call": b"cos\nsystem\n)R",
    }
    for label, value in others.items():
        trusted = "1001.0 equals 1001" if label == "a float" else ""
        yield Case(f"protocol {label}", partial(_file, protocol=whole(value)), Refused(Code.LEGACY_MAGIC), trusted)
    for label, value in {
        "None": b"N",
        "a list": b"]",
        "an empty dict": b"}",
        "a number for little_endian": named({"little_endian": number(1)}),
        "None for little_endian": named({"little_endian": b"N"}),
    }.items():
        yield Case(
            f"sys_info that is {label}",
            partial(_file, system=whole(value)),
            Refused(Code.LEGACY_BYTEORDER),
            "torch does not look at sys_info",
        )
    big = whole(named({"little_endian": pickles.FALSE}))
    yield Case("sys_info of a big-endian machine, which wrote little-endian too", partial(_file, system=big), SOUND)


def numels() -> Iterator[Case]:
    for one in STORED:
        for numel in (0, 1, one.numel - 1, one.numel + 1, 2 * one.numel, -1, 2**31, 2**62, 2**63 - 1, -(2**63)):
            stored = [replace(each, numel=numel) if each is one else each for each in STORED]
            yield Case(
                f"storage {one.key} has {one.numel} numbers and says {numel}",
                partial(_file, stored),
                Refused(Code.STORAGE_SIZE),
            )
        for cut in (1, 8, len(one.content)):
            stored = [replace(each, content=each.content[:-cut]) if each is one else each for each in STORED]
            yield Case(f"{cut} bytes of storage {one.key} missing", partial(_file, stored), Refused(Code.STORAGE_SIZE))
    for more in (b"\0", b"x", bytes(8), bytes(4096), _file()):
        yield Case(
            f"{len(more)} bytes behind the last storage",
            partial(_file, after=more),
            Refused(Code.LEGACY_TRAILING),
            "torch does not look behind the last storage",
        )
    data = _file()
    for size in (len(data) - 33, len(data) - 36, len(data) - 40):
        yield Case(f"its first {size} bytes", partial(data.__getitem__, slice(size)), Refused(Code.FILE_SHORT))


def keys() -> Iterator[Case]:
    lists = {
        "none": items(),
        "the first alone": items(text("0")),
        "the second alone": items(text("1")),
        "one more": items(text("0"), text("1"), text("2")),
        "one twice": items(text("0"), text("0")),
        "both and one twice": items(text("0"), text("1"), text("1")),
        "others": items(text("2"), text("3")),
        "numbers": items(number(0), number(1)),
        "None": b"N",
        "a text": text("01"),
        "a dict": named({"0": b"N", "1": b"N"}),
        "a call": b"cos\nsystem\n)R",
        "a list in it": items(text("0"), b"]"),
        "spaces": items(text("0 "), text("1")),
    }
    for label, value in lists.items():
        trusted = "torch takes any mapping for a list" if label in ("a dict", "a text") else ""
        yield Case(
            f"a list of keys that is {label}", partial(_file, keys=whole(value)), Refused(Code.LEGACY_KEYS), trusted
        )
    yield Case("a list of keys that is a tuple", partial(_file, keys=whole(row(text("0"), text("1")))), SOUND)
    swapped = whole(items(text("1"), text("0")))
    yield Case("keys in the other order than the storages", partial(_file, keys=swapped), Refused(Code.STORAGE_SIZE))
    yield Case("keys and storages in the other order", partial(_file, STORED[::-1]), SOUND)


def allocation_bombs() -> Iterator[Case]:
    for numel in (2**31, 2**40, 2**60, 2**63 - 1):
        root = whole(named({"w": tensor(storage("0", numel, view=pickles.NONE), 0, (1,), (1,))}))
        stored = [Storage("0", numel, b"")]
        yield Case(
            f"a storage that says twice that it has {numel} numbers",
            partial(_file, stored, root),
            Refused(Code.STORAGE_SIZE),
        )
    for numel in (2**63, 2**64, 10**30):
        root = whole(named({"w": tensor(storage("0", numel, view=pickles.NONE), 0, (1,), (1,))}))
        yield Case(
            f"a storage of {numel} numbers in the pickle",
            partial(_file, [Storage("0", 1, bytes(4))], root),
            Refused(Code.LEGACY_KEYS),
        )
    announced = MAGIC + PROTOCOL + SYSTEM + b"\x80\4\x8e" + struct.pack("<Q", 1 << 30)
    yield Case("a text of 1 GB in a small file", partial(bytes, announced), Refused(Code.PICKLE_LENGTH))


def views() -> Iterator[Case]:
    def viewed(*fields: bytes, shape: tuple[int, ...] = (4,)) -> bytes:
        view = row(*fields)
        root = whole(named({"w": tensor(storage("0", 16, view=view), 0, shape, (1,))}))
        return _file(STORED[:1], root)

    for offset, size in ((-1, 4), (13, 4), (16, 1), (0, 17), (2**62, 2**62), (0, -1), (2**63, 4), (0, 2**63), (5, -5)):
        yield Case(
            f"a view of {size} from {offset} of 16",
            partial(viewed, text("v"), number(offset), number(size)),
            Refused(Code.STORAGE_VIEW),
            "torch 2.13 takes the tensor's own place and forgets the view",
        )
    for label, fields in {
        "two fields": (text("v"), number(0)),
        "no field": (),
        "text": (text("v"), text("0"), text("4")),
        "None": (text("v"), b"N", b"N"),
        "floats": (text("v"), pickles.real(0.0), pickles.real(4.0)),
    }.items():
        build = partial(viewed, *fields)
        code = Code.STORAGE_VIEW
        if label != "no field":
            yield Case(f"a view of {label}", build, Refused(code), "torch does not look at it")
    yield Case(
        "a view in a sound place", partial(viewed, text("v"), number(4), number(8)), Reads({"w": seeds.FLOATS[16:32]})
    )
    yield Case(
        "a tensor larger than its view",
        partial(viewed, text("v"), number(4), number(8), shape=(9,)),
        Refused(Code.TENSOR_RANGE),
        "torch looks at the whole storage",
    )


MEMBERS = seeds.TAR_MEMBERS
BASE = tars.Storage(1, "FloatStorage", 16, seeds.FLOATS)
PLAIN_TAR = Reads({"w": seeds.FLOATS})


def _tar(
    described: Sequence[tars.Tensor], stored: Sequence[tars.Storage] = (BASE,), listed: Sequence[tars.View] = ()
) -> bytes:
    root = whole(named({"w": tars.reference(described[0].key)}))
    return tars.archive(
        [
            tars.Member("storages", tars.storages(stored, listed)),
            tars.Member("tensors", tars.tensors(described)),
            tars.Member("pickle", root),
        ]
    )


def negative_offsets() -> Iterator[Case]:
    sound = tars.Tensor(3, 1, (4, 4), (4, 1))
    yield Case("a sound tar", partial(_tar, [sound]), PLAIN_TAR)
    for value in (-1, -16, -(2**31), -(2**63)):
        yield Case(f"offset {value}", partial(_tar, [replace(sound, offset=value)]), Refused(Code.TAR_NEGATIVE))
        yield Case(f"a size {value}", partial(_tar, [replace(sound, size=(value, 4))]), Refused(Code.TAR_NEGATIVE))
        yield Case(f"a stride {value}", partial(_tar, [replace(sound, stride=(4, value))]), Refused(Code.TAR_NEGATIVE))
        yield Case(
            f"a storage of {value} numbers",
            partial(_tar, [sound], [replace(BASE, numel=value)]),
            Refused(Code.TAR_STORAGES),
        )
    for offset in (1, 16, 2**62):
        yield Case(
            f"offset {offset}, past the storage",
            partial(_tar, [replace(sound, offset=offset)]),
            Refused(Code.TENSOR_RANGE),
        )
    for offset, numel in ((-1, 4), (13, 4), (0, 17), (0, -1), (2**62, 2**62)):
        view = tars.View(5, 1, offset, numel)
        yield Case(
            f"a view of {numel} from {offset}", partial(_tar, [sound], listed=[view]), Refused(Code.STORAGE_VIEW)
        )
    for numel in (17, 2**31, 2**60):
        yield Case(
            f"a storage of 16 numbers that says {numel}",
            partial(_tar, [sound], [replace(BASE, numel=numel)]),
            Refused(Code.PICKLE_MARK if numel == 17 else Code.TAR_SHORT),
        )


def tar_members() -> Iterator[Case]:
    def changed(at: int, **fields: bytes) -> bytes:
        return tars.archive(
            [replace(member, fields=fields) if place == at else member for place, member in enumerate(MEMBERS)]
        )

    for at, member in enumerate(MEMBERS):
        for kind in (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"L", b"K", b"g", b"S"):
            yield Case(
                f"{member.name} of type {kind!r}",
                partial(changed, at, type=kind, linkname=b"/etc/passwd"),
                Refused(Code.TAR_KIND),
            )
        for checksum in (b"0000000\0", b"7777777\0", b"xxxxxxxx", bytes(8)):
            yield Case(
                f"{member.name} with the checksum {checksum!r}",
                partial(changed, at, checksum=checksum),
                Refused(Code.TAR_HEADER),
            )
        for size in (b"-0000000001\0", b"xxxxxxxxxxx\0", b"8\0", bytes(12)):
            yield Case(f"{member.name} of size {size!r}", partial(changed, at, size=size), Refused(Code.TAR_HEADER))
        for size in (b"77777777777\0", b"\x80" + b"\xff" * 11, b"\x80" + bytes(7) + b"\xff" * 4):
            yield Case(f"{member.name} of size {size!r}", partial(changed, at, size=size), Refused(Code.TAR_TRUNCATED))
        again = tars.archive([*MEMBERS, member])
        yield Case(f"{member.name} twice", partial(bytes, again), Refused(Code.TAR_DUPLICATE))
        without = tars.archive([other for other in MEMBERS if other is not member])
        yield Case(f"no {member.name}", partial(bytes, without), Refused(Code.IS_TAR))
    for called in ("../x", "/etc/passwd", "a/../../x", "..", "x/.."):
        more = tars.archive([*MEMBERS, tars.Member(called, b"x")])
        yield Case(f"a member {called!r} too", partial(bytes, more), Refused(Code.TAR_NAME))
    for called in ("x", "storages2", "./storages", "sub/pickle", "\x1b[31m"):
        more = tars.archive([*MEMBERS, tars.Member(called, b"x")])
        yield Case(f"a member {called!r} too", partial(bytes, more), Refused(Code.TAR_MEMBER))
    sound = tars.archive(MEMBERS)
    for cut in (1, 512, 1024, 1536):
        yield Case(
            f"its last {cut} bytes missing", partial(sound.__getitem__, slice(-cut)), Refused(Code.TAR_TRUNCATED)
        )
    for more in (b"x", bytes(511) + b"x"):
        yield Case(f"{len(more)} bytes behind its end", partial(bytes, sound + more), Refused(Code.TAR_TRAILING))
    number_of = whole(named({"w": tars.reference(99)}))
    yield Case(
        "a pickle that refers to nothing",
        partial(tars.archive, [*MEMBERS[:2], tars.Member("pickle", number_of)]),
        Refused(Code.TAR_REFERENCE),
    )
    for label, code, made in (
        (
            "more storages than there are bytes",
            Code.TAR_STORAGES,
            [tars.Member("storages", whole(number(2))), *MEMBERS[1:]],
        ),
        ("storages counted by a text", Code.TAR_STORAGES, [tars.Member("storages", whole(text("1"))), *MEMBERS[1:]]),
        (
            "tensors counted by a text",
            Code.TAR_TENSORS,
            [MEMBERS[0], tars.Member("tensors", whole(text("1"))), MEMBERS[2]],
        ),
    ):
        yield Case(label, partial(tars.archive, made), Refused(code))


def _of_rank(rank: int) -> bytes:
    view = tensor(storage("0", 16, view=pickles.NONE), 0, (1,) * rank, (1,) * rank)
    return _file(STORED[:1], whole(named({"w": view})))


def ranks() -> Iterator[Case]:
    sound = tars.Tensor(3, 1, (4, 4), (4, 1))
    for rank in (65, 1000, 10**6, 2**31 - 1, -1, -(2**31)):
        yield Case(f"a tensor of {rank} dimensions", partial(_tar, [replace(sound, ndim=rank)]), Refused(Code.TAR_RANK))
    for rank in (3, 10, 64):
        yield Case(
            f"a tensor that says {rank} dimensions and has 2",
            partial(_tar, [replace(sound, ndim=rank)]),
            Refused(Code.TAR_SHORT),
        )
    for rank in (5, 64):
        ones = (1,) * rank
        yield Case(
            f"{rank} dimensions in a tar", partial(_tar, [replace(sound, size=ones, stride=ones)]), Reads({"w": None})
        )
    for rank in (65, 1000, 100_000):
        yield Case(
            f"{rank} dimensions in the format before 1.6",
            partial(_of_rank, rank),
            Refused(Code.TENSOR_SHAPE),
            "torch has no limit but its memory",
        )


TRUSTED = {
    83: "torch reads what has no magic number as a plain pickle",
    86: "torch reads storages by what stands before them",
    87: "torch leaves what is not listed as whatever lay in memory",
    90: "torch looks at no number of a view",
    91: "torch unpacks the tar and takes what is there",
}
MAKERS: Makers = {
    83: wrong_magic,
    84: computed_magic,
    85: wrong_protocol,
    86: numels,
    87: keys,
    88: allocation_bombs,
    89: views,
    90: negative_offsets,
    91: tar_members,
    92: ranks,
}
