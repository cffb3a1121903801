"""Broken files of every format, each made of a sound one by a few changes to its structure or its bytes.

All choices come from the ``Random`` that is given: seeded for the mass runs, hypothesis's own where a failure
should shrink.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from tests.hostile import seeds
from tests.hostile.memory import MemoryFile
from tests.hostile.writers import dcp, headers, legacy, pickles, tars, zips

T = TypeVar("T")

NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 63, 64, 65, 127, 128, 255, 256, 511, 512, 1000, 4095, 65535, 65536, -1, -2, -64),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63)),
)
WORDS = (
    *(
        "",
        "0",
        "1",
        "2",
        "weight",
        "index",
        "storage",
        "module",
        "cpu",
        "cuda:0",
        "torch",
        "torch._utils",
        "collections",
    ),
    *("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter", "_rebuild_sparse_tensor", "FloatStorage"),
    *("LongStorage", "UntypedStorage", "QInt8Storage", "OrderedDict", "os", "system", "state_dict", "optimizer"),
    *("param_groups", "state", "_parameters", "_buffers", "_modules", "_content", "../../etc/passwd", "/etc/passwd"),
    *("a\x1b[31mb", "a\nb", "a\0b", "\u202egnp", "\ud800", "[red]x", "é" * 40, "x" * 300),
)


def some(random: Random, steps: Sequence[Callable[[Random, T], T]], thing: T, most: int = 3) -> T:
    """A few of the steps, one after another."""
    for _ in range(random.randint(1, most)):
        thing = random.choice(steps)(random, thing)
    return thing


# Bytes.


def _place(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.choice((1, 1, 2, 4, 8, 16, 64)))


def flip(random: Random, data: bytes) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def cut(random: Random, data: bytes) -> bytes:
    start, end = _place(random, data)
    return data[:start] + data[end:]


def double(random: Random, data: bytes) -> bytes:
    start, end = _place(random, data)
    return data[:end] + data[start:]


def move(random: Random, data: bytes) -> bytes:
    start, end = _place(random, data)
    rest, to = data[:start] + data[end:], random.randint(0, len(data) - end + start)
    return rest[:to] + data[start:end] + rest[to:]


def insert(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + bytes(random.randrange(256) for _ in range(random.randint(1, 8))) + data[at:]


def truncate(random: Random, data: bytes) -> bytes:
    return data[: random.randint(0, len(data))]


def overwrite(random: Random, data: bytes) -> bytes:
    """A number that is written over whatever is there."""
    width, order = random.choice((1, 2, 4, 8)), random.choice(("little", "little", "big"))
    value = random.choice((*NUMBERS, len(data), len(data) - 1, len(data) + 1))
    raw = (value & (1 << 8 * width) - 1).to_bytes(width, order)  # pyright: ignore[reportArgumentType]
    at = random.randint(0, max(len(data) - width, 0))
    return data[:at] + raw + data[at + width :]


BYTES = (flip, flip, cut, double, move, insert, truncate, overwrite, overwrite)


# Pickles, opcode by opcode.

_ALONE = [bytes([code]) for code in b"(.012NQRabdelstu)]}\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94oP"]


def _opcode(random: Random) -> bytes:
    """A new opcode, of any kind."""
    value, word = random.choice(NUMBERS), random.choice(WORDS)
    raw = word.encode("utf-8", "surrogatepass")
    small, index = value & 0xFF, random.randrange(8)
    return random.choice(
        (
            random.choice(_ALONE),
            pickles.number(value),
            pickles.text(word),
            pickles.name("torch._utils", "_rebuild_tensor_v2"),
            pickles.name(word, "x"),
            b"h" + bytes([index]),
            b"q" + bytes([index]),
            b"j" + struct.pack("<I", value & 0xFFFFFFFF),
            b"r" + struct.pack("<I", value & 0xFFFFFFFF),
            b"g%d\n" % value,
            b"p%d\n" % value,
            b"I%d\n" % value,
            b"L%dL\n" % value,
            b"F" + random.choice((b"1.5", b"nan", b"inf", b"1e999", b"", b"1_0")) + b"\n",
            b"V" + random.choice((b"a", b"\\u00e9", b"\\ud800", b"\\U00110000", b"\\")) + b"\n",
            b"S" + random.choice((b"'a'", b"'\\x'", b"'", b'"a"', b"'\\xff'")) + b"\n",
            b"G" + random.choice((bytes(8), b"\x7f\xf8" + bytes(6), b"\xff" * 8)),
            b"\x80" + bytes([small]),
            b"\x95" + struct.pack("<Q", value & 2**64 - 1),
            b"\x8a" + bytes([small % 20]) + bytes(small % 20),
            b"\x8b" + struct.pack("<I", value & 0xFFFFFFFF) + raw,
            b"\x8c" + bytes([len(raw) & 0xFF]) + raw,
            b"\x8d" + struct.pack("<Q", value & 2**64 - 1) + raw,
            b"B" + struct.pack("<I", len(raw)) + raw,
            b"C" + bytes([len(raw) & 0xFF]) + raw,
            b"\x96" + struct.pack("<Q", len(raw)) + raw,
            b"T" + struct.pack("<I", len(raw)) + raw,
            b"U" + bytes([len(raw) & 0xFF]) + raw,
            b"\x82" + bytes([small]),
            bytes([small]),
        )
    )


def _drop(random: Random, ops: list[bytes]) -> list[bytes]:
    at = random.randrange(len(ops) + 1)
    return ops[:at] + ops[at + random.choice((1, 1, 1, 2, 8)) :]


def _again(random: Random, ops: list[bytes]) -> list[bytes]:
    at, count = random.randrange(len(ops) + 1), random.choice((1, 2, 8, 30))
    return ops[: at + count] + ops[at:]


def _swap(random: Random, ops: list[bytes]) -> list[bytes]:
    ops = list(ops)
    if ops:
        one, other = random.randrange(len(ops)), random.randrange(len(ops))
        ops[one], ops[other] = ops[other], ops[one]
    return ops


def _add(random: Random, ops: list[bytes]) -> list[bytes]:
    at = random.randint(0, len(ops))
    return [*ops[:at], *[_opcode(random)] * random.choice((1, 1, 1, 1, 2, 100)), *ops[at:]]


def _change(random: Random, ops: list[bytes]) -> list[bytes]:
    at = random.randint(0, len(ops))
    return [*ops[:at], _opcode(random), *ops[at + 1 :]]


def _renumber(random: Random, ops: list[bytes]) -> list[bytes]:
    """Another number where there is one: sizes, strides, offsets, counts."""
    places = [at for at, op in enumerate(ops) if op[:1] in b"KMJ\x8a"]
    if not places:
        return ops
    at = random.choice(places)
    return [*ops[:at], pickles.number(random.choice(NUMBERS)), *ops[at + 1 :]]


def _reword(random: Random, ops: list[bytes]) -> list[bytes]:
    """Another text where there is one: keys, names of storages, classes."""
    places = [at for at, op in enumerate(ops) if op[:1] in b"X\x8c" or op[:1] == b"c"]
    if not places:
        return ops
    at = random.choice(places)
    word = random.choice(WORDS)
    if ops[at][:1] == b"c":
        module, _, attribute = ops[at][1:-1].decode("latin-1").partition("\n")
        new = pickles.name(*random.choice(((word, attribute), (module, word))))
    else:
        new = pickles.text(word)
    return [*ops[:at], new, *ops[at + 1 :]]


def _splice(random: Random, ops: list[bytes]) -> list[bytes]:
    other = random.choice(_OPS)
    start = random.randrange(len(other))
    at = random.randint(0, len(ops))
    return ops[:at] + other[start : start + random.choice((1, 4, 16, 64))] + ops[at + random.choice((0, 4, 16)) :]


def _bomb(random: Random, ops: list[bytes]) -> list[bytes]:
    """Something deep, or something small that is huge when written out; now and then a great deal of it."""
    count = random.choice((2, 10, 40, 40, 120, 120, 120, 3000 if random.random() < 0.1 else 40))
    bomb = random.choice(
        (
            b"]" * count + b"a" * (count - 1),
            b")" + b"\x85" * count,
            b")" + b"2\x86" * count,
            b"}" + b"K\0}" * count + b"s" * count,
            b"cos\nsystem\n)" + b"R)" * count + b"R",
            b"(" * count + b"1" * count,
            b"N" + b"2" * count + b"0" * count,
            b"](" + b"X\1\0\0\0a" * count + b"e",
            _doubling(min(count, 120)),
            b"]q\xffh\xffa",
            b"}q\xffX\1\0\0\0ah\xffs",
        )
    )
    at = random.randint(0, len(ops))
    return [*ops[:at], bomb, *ops[at + random.randrange(2) :]]


def _doubling(count: int) -> bytes:
    """A list of twice the list of twice the list ..."""
    steps = (b"0]q%c(h%ch%ce" % (at + 101, at + 100, at + 100) for at in range(count))
    return b"]q%c" % 100 + b"".join(steps)


_OPS = [pickles.split(data) for data in seeds.PICKLES.values()]
OPCODES = (_drop, _again, _swap, _add, _add, _change, _renumber, _renumber, _renumber, _reword, _reword, _splice, _bomb)


def pickle(random: Random, data: bytes) -> bytes:
    """A sound pickle with a few opcodes other than they were, and now and then a few bytes."""
    out = b"".join(some(random, OPCODES, pickles.split(data)))
    return some(random, BYTES, out, 1) if random.random() < 0.1 else out


# Formats: each function makes one broken file.


_MANY_OPS = pickles.split(seeds.MANY)


def a_pickle(random: Random) -> MemoryFile:
    if random.random() < 0.08:
        root = b"".join(some(random, OPCODES, _MANY_OPS))
        return MemoryFile(zips.torch_archive(root, seeds.MANY_KEYS))
    root = pickle(random, random.choice(list(seeds.PICKLES.values())))
    return MemoryFile(zips.torch_archive(root, seeds.KEYS))


def _member(random: Random, member: zips.Member) -> zips.Member:
    names = random.choice((zips.LOCAL_FIELDS, zips.CENTRAL_FIELDS))
    name = random.choice(names[1:])
    width = dict(zip(zips.CENTRAL_FIELDS, "4HHHHHHLLLHHHHHLL", strict=True)).get(name, "H")
    value = {name: random.choice((*NUMBERS, len(member.content))) & (0xFFFF if width == "H" else 0xFFFFFFFF)}
    match random.randrange(8):
        case 0:
            return replace(member, fields={**member.fields, **({} if name in ("name", "extra") else value)})
        case 1 | 2:
            return replace(member, local={**member.local, **value})
        case 3 | 4:
            return replace(member, central={**member.central, **value})
        case 5:
            return replace(member, content=some(random, BYTES, member.content, 1))
        case 6:
            wide = struct.pack("<2H3Q", 1, 24, *(random.choice(NUMBERS) & 2**64 - 1 for _ in range(3)))
            extra = random.choice((wide, wide[: random.randrange(28)], b"\x01", struct.pack("<2H", 9, 60000)))
            whole = {"stored": 0xFFFFFFFF, "size": 0xFFFFFFFF, "header": 0xFFFFFFFF}
            return replace(member, central={**member.central, **whole}, central_extra=extra, local_extra=extra)
        case _:
            word = random.choice(("archive/data/0", "archive/data.pkl", "archive/version", "b/data.pkl", *WORDS))
            raw = word.encode("utf-8", "surrogatepass")
            return replace(member, **{random.choice(("name", "local_name", "comment")): raw})


def a_zip(random: Random) -> MemoryFile:
    if random.random() < 0.3:
        data = some(random, BYTES, random.choice(list(seeds.ZIPS.values())))
        return MemoryFile(zips.with_checksums(data) if random.random() < 0.7 else data)
    members = zips.torch_members(seeds.PICKLES["plain"], seeds.KEYS)
    options: dict[str, Any] = {}
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(members))
        match random.randrange(10):
            case 0:
                members = members[:at] + members[at + 1 :] or members
            case 1:
                members = [*members, members[at]]
            case 2:
                random.shuffle(members)
            case 3:
                table = random.choice(
                    (("end", zips.END_FIELDS), ("end64", zips.END64_FIELDS), ("locator", zips.LOCATOR_FIELDS))
                )
                name = random.choice(table[1][1:])
                limit = 0xFFFF if table[0] == "end" and name not in ("length", "start") else 0xFFFFFFFF
                if table[0] != "end" and name in ("needs", "made_by"):
                    limit = 0xFFFF
                options[table[0]] = {name: random.choice(NUMBERS) & limit}
            case 4:
                options[random.choice(("before", "between", "after", "comment"))] = random.choice(
                    (b"\0", b"PK\x05\x06", b"junk", bytes(22), b"PK\x01\x02" + bytes(42))
                )
            case _:
                members[at] = _member(random, members[at])
    return MemoryFile(zips.archive(members, **options))


def a_legacy(random: Random) -> MemoryFile:
    if random.random() < 0.3:
        return MemoryFile(some(random, BYTES, random.choice(list(seeds.LEGACY.values()))))
    parts: dict[str, Any] = {}
    root = random.choice(list(seeds.LEGACY_PICKLES.values()))
    stored = list(seeds.LEGACY_STORAGES)
    for _ in range(random.randint(1, 2)):
        at = random.randrange(len(stored)) if stored else 0
        match random.randrange(9):
            case 0:
                name = random.choice(("magic", "protocol", "system"))
                sound = {"magic": legacy.MAGIC, "protocol": legacy.PROTOCOL, "system": legacy.SYSTEM}[name]
                parts[name] = pickle(random, sound)
            case 1:
                listed = [pickles.text(random.choice(("0", "1", "2", ""))) for _ in range(random.randrange(4))]
                parts["keys"] = pickles.whole(pickles.items(*listed))
            case 2:
                parts["after"] = random.choice((b"\0", bytes(8), seeds.FLOATS))
            case 3:
                stored = stored[:at] + stored[at + 1 :]
            case 4:
                stored = [*stored, *stored[at : at + 1]]
            case 5 if stored:
                stored[at] = replace(stored[at], numel=random.choice([n for n in NUMBERS if -(2**63) <= n < 2**63]))
            case 6 if stored:
                stored[at] = replace(stored[at], content=some(random, BYTES, stored[at].content, 1))
            case _:
                root = pickle(random, random.choice(list(seeds.LEGACY_PICKLES.values())))
    return MemoryFile(legacy.legacy(root, stored, **parts))


def json_value(random: Random, value: Any) -> Any:
    """A JSON value with one thing in it changed."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        match random.randrange(8):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return {random.choice(WORDS) if name == key else name: item for name, item in value.items()}
            case 2:
                return {**value, random.choice((*WORDS, "__metadata__")): random.choice(list(value.values()))}
            case _:
                return {**value, key: json_value(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        match random.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
            case 2:
                return value[::-1]
            case _:
                return [*value[:at], json_value(random, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and random.random() < 0.8:
        return random.choice((*NUMBERS, value + 1, value - 1, value * 2))
    if isinstance(value, str) and random.random() < 0.8:
        return random.choice((*WORDS, *_CODES))
    return random.choice((None, True, 1.5, 1e300, [], {}, [[]], "0", -0.0, 0, [0, 0]))


_CODES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F4", "F6_E2M3", "F8_E4M3", "C64", "f32", "F128")


def a_safetensors(random: Random) -> MemoryFile:
    sound = random.choice(list(seeds.SAFETENSORS.values()))
    if random.random() < 0.3:
        return MemoryFile(some(random, BYTES, sound))
    length = int.from_bytes(sound[:8], "little")
    header, data = json.loads(sound[8 : 8 + length]), sound[8 + length :]
    for _ in range(random.randint(1, 3)):
        header = json_value(random, header)
    text = json.dumps(header, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    match random.randrange(8):
        case 0:
            text = some(random, BYTES, text, 1)
        case 1:
            entry = random.choice(list(header.items())) if isinstance(header, dict) and header else ("a", {})
            entries = [*header.items()] if isinstance(header, dict) else []
            text = headers.pairs([*entries, entry])
        case 2:
            text = (
                random.choice((b" ", b"\xef\xbb\xbf", b"\n", b"")) + text + random.choice((b" ", b"\0", b"{}", b"\n"))
            )
        case _:
            pass
    if random.random() < 0.2:
        data = some(random, BYTES, data, 1)
    return MemoryFile(
        headers.safetensors(text, data, random.choice(NUMBERS) % 2**64 if random.random() < 0.1 else None)
    )


def a_tar(random: Random) -> MemoryFile:
    sound = seeds.TARS["torch"]
    if random.random() < 0.3:
        return MemoryFile(tars.with_checksums(some(random, BYTES, sound)))
    members = list(seeds.TAR_MEMBERS)
    for _ in range(random.randint(1, 2)):
        at = random.randrange(len(members)) if members else 0
        match random.randrange(8):
            case 0:
                members = members[:at] + members[at + 1 :]
            case 1:
                members = [*members, *members[at : at + 1]]
            case 2:
                random.shuffle(members)
            case 3 if members:
                name, width = random.choice(tars.FIELDS)
                values = (b"%011o\0" % abs(random.choice(NUMBERS)), b"\x80" + bytes(3) + b"\xff" * 8, b"\xff" * 12, b"")
                raw = random.choice((*values, *b"0125LKxg\0", *(w.encode("utf-8", "surrogatepass") for w in WORDS)))
                raw = bytes([raw]) if isinstance(raw, int) else raw
                members[at] = replace(members[at], fields={**members[at].fields, name: raw[:width]})
            case 4 if members:
                members[at] = replace(members[at], name=random.choice(("storages", "tensors", "pickle", "x", "../x")))
            case _ if members:
                members[at] = replace(members[at], content=some(random, (*BYTES, *_TAR_PARTS), members[at].content, 2))
            case _:
                break
    return MemoryFile(tars.archive(members))


def _other_storages(random: Random, data: bytes) -> bytes:
    def pick(*sound: int) -> int:
        return random.choice((*sound, random.choice(NUMBERS)))

    kinds = ("FloatStorage", "LongStorage", "ByteStorage", "NoStorage")
    numel = max(min(pick(16, 16, 4), 2**63 - 1), -(2**63))
    stored = tars.Storage(pick(1), random.choice(kinds), numel, seeds.FLOATS[: random.choice((64, 64, 32, 0))])
    views = [tars.View(pick(5), pick(1), pick(4), pick(8)) for _ in range(random.randrange(3))]
    return tars.storages([stored], views, random.choice((None, None, pick(1))))


def _other_tensors(random: Random, data: bytes) -> bytes:
    def pick(*sound: int) -> int:
        return max(min(random.choice((*sound, random.choice(NUMBERS))), 2**63 - 1), -(2**63))

    made = tars.Tensor(
        pick(3),
        pick(1),
        (pick(4), pick(4)),
        (pick(4), pick(1)),
        pick(0),
        ndim=random.choice((None, None, 0, 65, -1, 2**31 - 1)),
    )
    return tars.tensors([made] * random.choice((1, 1, 2)), random.choice((None, None, pick(1))))


_TAR_PARTS = (_other_storages, _other_tensors, pickle, pickle, pickle)


def a_sharded(random: Random) -> MemoryFile:
    folder = dict(random.choice(list(seeds.SHARDED.values())))
    index_name = next(iter(folder))
    index = json.loads(folder[index_name])
    match random.randrange(6):
        case 0:
            folder[index_name] = some(random, BYTES, folder[index_name])
        case 1:
            name = random.choice(list(folder)[1:])
            folder[name] = some(random, BYTES, folder[name], 1)
        case 2:
            one, other = random.sample(list(folder), 2)
            folder[one], folder[other] = folder[other], folder[one]
        case 3:
            del folder[random.choice(list(folder)[1:])]
        case _:
            for _ in range(random.randint(1, 3)):
                index = json_value(random, index)
            folder[index_name] = json.dumps(index).encode()
    return MemoryFile(folder[index_name], index_name, folder)


def _chunk(random: Random, chunk: dcp.Chunk) -> dcp.Chunk:
    field = random.choice(("at", "size", "file", "start", "length", "listed_size"))
    few = (0, 1, 2, 4, *random.choices(NUMBERS, k=2))
    value: Any = random.choice((*few, chunk.start, chunk.length, chunk.length - 1, chunk.length + 1))
    if field in ("at", "size", "listed_size"):
        value = tuple(random.choices(few, k=random.choice((2, 2, 2, 1, 0, 3))))
    elif field == "file":
        value = random.choice(
            (*WORDS, "__0_0.distcp", "__1_0.distcp", ".metadata", "./__0_0.distcp", "a/../__0_0.distcp")
        )
    return replace(chunk, **{field: value})


def _dcp_tensor(random: Random, tensor: dcp.Tensor) -> dcp.Tensor:
    chunks = list(tensor.chunks)
    at = random.randrange(len(chunks)) if chunks else 0
    match random.randrange(8):
        case 0:
            return replace(tensor, size=tuple(random.choices((0, 1, 2, 4, *random.choices(NUMBERS, k=2)), k=2)))
        case 1:
            return replace(tensor, dtype=random.choice(("float32", "int64", "float16", "bool", "", "float4_e2m1fn_x2")))
        case 2:
            return replace(tensor, chunks=chunks[:at] + chunks[at + 1 :])
        case 3:
            return replace(tensor, chunks=[*chunks, *chunks[at : at + 1]])
        case _ if chunks:
            chunks[at] = _chunk(random, chunks[at])
            return replace(tensor, chunks=chunks)
        case _:
            return tensor


def a_dcp(random: Random) -> MemoryFile:
    folder = dict(seeds.DCP["two ranks"])
    other = random.choice(list(folder)[1:])
    match random.randrange(10):
        case 0 | 1 | 2:
            folder[".metadata"] = pickle(random, folder[".metadata"])
        case 3:
            folder[other] = zips.with_checksums(some(random, BYTES, folder[other]))
        case 4:
            one, two = random.sample(list(folder), 2)
            folder[one], folder[two] = folder[two], folder[one]
        case 5:
            del folder[other]
        case _:
            tensors = dict(seeds.DCP_TENSORS)
            for _ in range(random.randint(1, 2)):
                fqn = random.choice(list(tensors))
                tensor = _dcp_tensor(random, tensors.pop(fqn))
                tensors[random.choice((fqn, fqn, fqn, random.choice(WORDS)))] = tensor
            folder[".metadata"] = dcp.metadata(tensors)
    return MemoryFile(folder[".metadata"], ".metadata", folder)


MAKERS: dict[str, Callable[[Random], MemoryFile]] = {
    "pickle": a_pickle,
    "zip": a_zip,
    "legacy": a_legacy,
    "safetensors": a_safetensors,
    "tar": a_tar,
    "sharded": a_sharded,
    "dcp": a_dcp,
}
