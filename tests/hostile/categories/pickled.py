"""Categories 57 to 82: the pickle inside a checkpoint."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from qkvinspect.error_codes import Code
from tests.hostile import seeds
from tests.hostile.categories.case import Case, Makers, Reads, Refused
from tests.hostile.writers import pickles
from tests.hostile.writers.pickles import (
    call,
    items,
    mapping,
    name,
    named,
    number,
    numbers,
    ordered,
    row,
    storage,
    tensor,
    text,
    whole,
)
from tests.hostile.writers.zips import torch_archive

PLAIN = seeds.PICKLES["plain"]
WEIGHT = tensor(storage("0", 16), 0, (4, 4), (4, 1))
SOUND = Reads({"w": seeds.FLOATS})
ANY = Reads({"weight": seeds.FLOATS})
CHUNKS = pickles.split(PLAIN)


def _file(data_pkl: bytes) -> bytes:
    return torch_archive(data_pkl, seeds.KEYS)


def _beside(value: bytes | Callable[[], bytes], protocol: int = 2) -> bytes:
    """A state_dict of one tensor, with something under another key; what is large is made only now."""
    return _file(whole(named({"w": WEIGHT, "x": value() if callable(value) else value}), protocol))


def _only(value: bytes) -> bytes:
    return _file(whole(named({"w": value})))


def _pickle(label: str, data: bytes, code: Code, trusted: str = "") -> Case:
    return Case(label, partial(_file, data), Refused(code), trusted)


def _x(
    label: str, value: bytes | Callable[[], bytes], outcome: Code | Reads, trusted: str = "", protocol: int = 2
) -> Case:
    expected = Refused(outcome) if isinstance(outcome, Code) else outcome
    return Case(label, partial(_beside, value, protocol), expected, trusted)


def _w(label: str, value: bytes, outcome: Code | Reads, trusted: str = "") -> Case:
    expected = Refused(outcome) if isinstance(outcome, Code) else outcome
    return Case(label, partial(_only, value), expected, trusted)


def truncated() -> Iterator[Case]:
    at = 0
    for chunk in CHUNKS[:-1]:
        at += len(chunk)
        yield _pickle(f"it stops behind the opcode {chunk[:1]!r} at byte {at}", PLAIN[:at], Code.PICKLE_TRUNCATED)
    for inside, code in (
        (b"X\5\0\0\0wei", Code.PICKLE_LENGTH),
        (b"X\5\0", Code.PICKLE_TRUNCATED),
        (b"ctorch._ut", Code.PICKLE_TRUNCATED),
        (b"J\1", Code.PICKLE_TRUNCATED),
        (b"G\0\0", Code.PICKLE_TRUNCATED),
        (b"\x8a", Code.PICKLE_TRUNCATED),
        (b"\x8a\2\1", Code.PICKLE_LENGTH),
        (b"I12", Code.PICKLE_TRUNCATED),
        (b"S'x", Code.PICKLE_TRUNCATED),
        (b"M\1", Code.PICKLE_TRUNCATED),
        (b"K", Code.PICKLE_TRUNCATED),
        (b"\x95\1\0", Code.PICKLE_TRUNCATED),
    ):
        yield _pickle(f"it stops within {inside!r}", b"\x80\2}" + inside, code)
    yield _pickle("it has no bytes", b"", Code.PICKLE_TRUNCATED)
    yield _pickle("it is its protocol alone", b"\x80\2", Code.PICKLE_TRUNCATED)
    yield _pickle("it is half a protocol", b"\x80", Code.PICKLE_LENGTH)


def trailing() -> Iterator[Case]:
    for label, more in {
        "a zero": b"\0",
        "a STOP": b".",
        "itself": PLAIN,
        "a newline": b"\n",
        "text": b"hello",
        "a call": b"cos\nsystem\n(S'x'\ntR.",
        "4096 zeros": bytes(4096),
    }.items():
        yield _pickle(f"{label} behind its STOP", PLAIN + more, Code.PICKLE_TRAILING)
    for value in (b"N", b"]", b"(", b"(N", WEIGHT):
        yield _pickle(
            f"{value[:8]!r} left on the stack", b"\x80\2" + value + named({"w": WEIGHT}) + b".", Code.PICKLE_STOP
        )


KNOWN = frozenset(
    b"\x80\x9502N\x88\x89MJGIL\x8a\x8bFSUTVCB\x8e\x96\x8c\x8dX\x87\x86\x85t)](}elasud\x8f\x90\x91c\x93\x81\x92bRQhjgqrp\x941K."
)


def unknown_opcodes() -> Iterator[Case]:
    refused = {
        b"i": "INST",
        b"o": "OBJ",
        b"P": "PERSID",
        b"\x82": "EXT1",
        b"\x83": "EXT2",
        b"\x84": "EXT4",
        b"\x97": "NEXT_BUFFER",
        b"\x98": "READONLY_BUFFER",
    }
    for code, called in refused.items():
        for more in (b"", b"\1\0\0\0", b"os\nsystem\n"):
            yield _x(f"{called} with {more!r}", b"(N" + code + more, Code.PICKLE_OPCODE)
    for code in range(256):
        if code not in KNOWN and bytes([code]) not in refused:
            yield _x(f"a byte {code:02x} for an opcode", bytes([code]), Code.PICKLE_OPCODE)


NEEDS = {
    b"0": 0,
    b"a": 2,
    b"s": 3,
    b"b": 2,
    b"R": 2,
    b"\x81": 2,
    b"\x92": 3,
    b"\x93": 2,
    b"Q": 1,
    b"\x85": 1,
    b"\x86": 2,
    b"\x87": 3,
    b"2": 1,
    b"q\0": 1,
    b"r\0\0\0\0": 1,
    b"p0\n": 1,
    b"\x94": 1,
}


def underflow() -> Iterator[Case]:
    for opcode, needs in NEEDS.items():
        for depth in range(max(needs, 1)):
            code = Code.PICKLE_MARK if opcode == b"0" else Code.PICKLE_STACK
            yield _pickle(f"{opcode!r} on a stack of {depth}", b"\x80\2" + b"]" * depth + opcode + b"N.", code)
            if opcode != b"0":
                yield _pickle(
                    f"{opcode!r} on a stack of {depth} above a mark", b"\x80\2N(" + b"]" * depth + opcode + b"tN.", code
                )
    yield _pickle("STOP on an empty stack", b"\x80\2.", Code.PICKLE_STOP)
    yield _pickle("STOP above a mark", b"\x80\2N(.", Code.PICKLE_STOP)


def missing_marks() -> Iterator[Case]:
    for opcode in (b"t", b"e", b"u", b"l", b"d", b"1", b"\x90", b"\x91"):
        for before in (b"", b"N", b"]", b"}NN", b"(t", b"NN(1"):
            yield _pickle(f"{opcode!r} behind {before!r}", b"\x80\2" + before + opcode + b".", Code.PICKLE_MARK)
    for opcode, target in ((b"e", b"]"), (b"u", b"}N"), (b"\x90", b"\x8f")):
        yield _pickle(f"{opcode!r} whose mark is below all", b"\x80\2(" + target + opcode + b".", Code.PICKLE_STACK)


def bad_memo_gets() -> Iterator[Case]:
    for get in (
        b"h\0",
        b"h\xff",
        b"j\0\0\0\0",
        b"j\xff\xff\xff\xff",
        b"j\0\0\0\x80",
        b"g0\n",
        b"g99999\n",
        b"g-1\n",
        b"g4294967296\n",
    ):
        yield _x(f"{get!r} of nothing stored", get, Code.PICKLE_MEMO)
        yield _x(f"{get!r} where only entry 7 is stored", b"Nq\x070" + get, Code.PICKLE_MEMO)
    for get in (b"g\n", b"gx\n", b"g1.5\n", b"g0x1\n", b"g1 2\n", b"g\xff\n"):
        yield _x(f"{get!r}, which is no number", get, Code.PICKLE_NUMBER)
    for put in (b"p-1\n", b"p-99\n"):
        yield _x(f"{put!r}", b"N" + put, Code.PICKLE_MEMO)
    for put in (b"p\n", b"px\n", b"p1e3\n"):
        yield _x(f"{put!r}, which is no number", b"N" + put, Code.PICKLE_NUMBER)


def huge_memo_indexes() -> Iterator[Case]:
    for index in (1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):
        put = struct.pack("<I", index)
        yield _x(f"a memo entry {index}", b"Nr" + put + b"j" + put + b"0", SOUND)
    for index in (1 << 32, 1 << 62, 1 << 64, 10**30, 10**255):
        digits = b"%d\n" % index
        yield _x(
            f"a memo entry of {len(digits) - 1} digits",
            b"Np" + digits + b"g" + digits + b"0",
            SOUND,
            "torch knows no memo entries written as text",
        )
    for digits in (257, 300, 10_000):
        number = b"1" * digits + b"\n"
        yield _x(f"a memo entry of {digits} digits", b"Np" + number, Code.LIMIT_INTEGER)
    yield _x("1,100,000 memo entries", _memo_entries, Code.LIMIT_MEMO, "torch has no limit")


def _memo_entries() -> bytes:
    return b"N" + b"".join(b"r" + struct.pack("<I", n) for n in range(1_100_000))


def huge_lengths() -> Iterator[Case]:
    for opcode, width, most in (
        (b"X", 4, 32),
        (b"T", 4, 32),
        (b"B", 4, 32),
        (b"\x8d", 8, 64),
        (b"\x8e", 8, 64),
        (b"\x96", 8, 64),
        (b"\x8c", 1, 8),
        (b"U", 1, 8),
        (b"C", 1, 8),
    ):
        sizes = {(1 << most) - 1, (1 << (most - 1)), (1 << (most - 1)) - 1, 1 << 30 if most > 8 else 200}
        for size in sorted(sizes):
            value = opcode + size.to_bytes(width, "little") + b"abc"
            yield _pickle(f"{opcode!r} of {size} bytes", b"\x80\4" + value + b".", Code.PICKLE_LENGTH)


def depth() -> Iterator[Case]:
    levels = 1_000_000
    shapes = {
        "lists": (b"]" * levels + b"a" * (levels - 1), Code.LIMIT_STACK),
        "tuples": (b"N" + b"\x85" * levels, Code.LIMIT_OBJECTS),
        "marks": (b"(" * levels, Code.LIMIT_STACK),
        "calls": (b"cos\nsystem\n" + b")R" * levels, Code.LIMIT_OBJECTS),
        "references": (b"N" + b"Q" * levels, Code.LIMIT_OBJECTS),
    }
    for label, (value, code) in shapes.items():
        yield _x(f"{levels} {label} in each other", value, code, "torch has no limit")
    for levels in (100, 1000, 50_000):
        lists = b"]" * levels + b"a" * (levels - 1)
        trusted = "torch reads it, and Python crashes when such a list is freed or shown" if levels > 1000 else ""
        yield _x(f"{levels} lists in each other", lists, SOUND, trusted)
        yield _x(f"{levels} tuples in each other", b"N" + b"\x85" * levels, SOUND, trusted)
        yield _x(f"{levels} calls in each other", b"cm\nC\n" + b")R" * levels, SOUND)
        states = (b"cm\nC\n)R" + b"}X\1\0\0\0a") * levels + b"N" + b"sb" * levels
        yield _x(f"{levels} states in each other", states, Code.LIMIT_STACK if levels > 20_000 else SOUND)
    for levels in (1, 31, 32, 1000, 30_000):
        nested = b"}X\1\0\0\0a" * levels + named({"w": WEIGHT}) + b"s" * levels
        both = {"b": seeds.FLOATS, "c": seeds.FLOATS}
        outcome = Reads({**both, "a." * (levels + 1) + "w": seeds.FLOATS}) if levels < 32 else Code.LIMIT_DEPTH
        expected = Refused(outcome) if isinstance(outcome, Code) else outcome
        build = partial(_file, whole(named({"b": WEIGHT, "c": WEIGHT, "a": nested})))
        yield Case(f"a tensor below {levels + 1} dicts", build, expected, "torch has no limit")


def _doubling(start: bytes, times: int) -> bytes:
    """Each list holds the one before twice: 2^times things in all, 10 bytes a time."""
    steps = b"".join(b"0]q" + bytes([n + 1]) + b"(h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(times))
    return start + b"q\0" + steps


def doubling() -> Iterator[Case]:
    for times in (10, 30, 60, 200):
        yield _x(f"a list doubled {times} times", _doubling(b"]", times), SOUND)
        yield _x(f"a text doubled {times} times", _doubling(text("a" * 1000), times), SOUND)
    for times in (16, 30, 60):
        dicts = (
            WEIGHT
            + b"q\0"
            + b"".join(
                b"0}q" + bytes([n + 1]) + b"(" + text("a") + b"h" + bytes([n]) + text("b") + b"h" + bytes([n]) + b"u"
                for n in range(times)
            )
        )
        yield _pickle(
            f"a tensor under 2^{times} names",
            whole(dicts),
            Code.LIMIT_TENSORS,
            "torch has no names to make, only dicts that hold each other",
        )
    keys = text("k") + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(100))
    yield _x("a key that is a tuple doubled 100 times", b"}(" + keys + b"Nu", Code.LIMIT_KEY)


def dup_bombs() -> Iterator[Case]:
    for count in (10, 1000, 90_000):
        yield _x(f"{count} DUP, popped again", b"N" + b"2" * count + b"0" * count, SOUND, "torch does not know DUP")
        yield _x(f"a tuple of {count} DUP", b"(N" + b"2" * count + b"t", SOUND, "torch does not know DUP")
    yield _x("1,000,000 DUP", b"N" + b"2" * 1_000_000, Code.LIMIT_STACK)
    yield _x("5,000,000 DUP and POP", b"N" + b"20" * 2_500_000, Code.LIMIT_OPCODES)
    yield _x("1,000,000 MARK and POP_MARK", b"N" + b"(1" * 1_000_000, Code.LIMIT_OBJECTS, "torch has no limit")


def cycles() -> Iterator[Case]:
    own = {
        "a list that holds itself": b"]q\1h\1a",
        "a dict that holds itself": b"}q\1" + text("x") + b"h\1s",
        "a call whose state is itself": b"cm\nC\n)Rq\1h\1b",
        "a list in its own tuple": b"]q\1h\1\x85a",
        "two lists in each other": b"]q\1]q\2h\1aa",
        "a call that holds its own arguments": b"]q\1cm\nC\nh\1\x85Ra",
    }
    for label, value in own.items():
        yield _x(label, value, SOUND)
    for levels in (1, 2, 5):
        value = (
            b"}q\1" + (text("a") + b"}") * levels + text("a") + b"h\1" + b"s" * (levels + 1) + text("w") + WEIGHT + b"s"
        )
        yield _pickle_reads(f"a state_dict that holds itself {levels + 1} levels below", value, SOUND)


UNHASHABLE = {
    "a list": b"]",
    "a dict": b"}",
    "a set of protocol 4": b"\x8f",
    "a list in a tuple": b"]\x85",
    "a dict in a tuple": b"}\x85",
    "an OrderedDict": ordered(),
    "a list deep in a tuple": b"]\x85\x85\x85\x85",
}


def unhashable_keys() -> Iterator[Case]:
    for label, key in UNHASHABLE.items():
        expected = SOUND if "set" in label else Code.PICKLE_KEY
        yield _x(f"{label} as a key by SETITEM", b"}" + key + b"Ns", expected)
        yield _x(f"{label} as a key by SETITEMS", b"}(" + key + b"Nu", expected)
        yield _x(f"{label} as a key by DICT", b"(" + key + b"Nd", expected)
        yield _x(
            f"{label} as a key of an OrderedDict's pair",
            call(name("collections", "OrderedDict"), items(items(key, b"N"))),
            expected,
        )
        yield (
            _pickle(
                f"{label} as a key beside tensors", whole(b"}(" + text("w") + WEIGHT + key + b"Nu"), Code.PICKLE_KEY
            )
            if "set" not in label
            else _x(label, key, SOUND)
        )
    for count in (201, 100_000):
        yield _x(f"a tuple of {count} as a key", b"}(" + b"K\1" * count + b"tNs", Code.LIMIT_KEY, "torch has no limit")
    yield _x("60,000 keys of one hash", _colliding, Code.LIMIT_KEY, "torch takes minutes over it")


def _colliding() -> bytes:
    return b"}" + b"".join(number(n * ((1 << 61) - 1)) + b"Ns" for n in range(5, 60_000))


def other_keys() -> Iterator[Case]:
    keys = {"a number": (b"K\1", "1"), "True": (b"\x88", "True")}
    for label, (key, called) in keys.items():
        yield _pickle_reads(
            f"a tensor under {label}",
            mapping([(text("w"), WEIGHT), (key, WEIGHT)]),
            Reads({"w": seeds.FLOATS, called: seeds.FLOATS}),
        )
    others = {
        "None": b"N",
        "a float": pickles.real(1.5),
        "bytes": b"C\1a",
        "a tuple": b"K\1\x85",
        "a class": name("torch", "float32"),
        "an empty tuple": b")",
    }
    for label, key in others.items():
        expected = Reads({"w": seeds.FLOATS}, findings=("unknown-tensor",))
        yield _pickle_reads(
            f"a tensor under {label}",
            mapping([(text("w"), WEIGHT), (key, WEIGHT)]),
            expected,
            "it can have any key; a tensor of no name cannot be named here",
        )
        yield _pickle_reads(f"something else under {label}", mapping([(text("w"), WEIGHT), (key, b"N")]), SOUND)
        state = name("m", "C") + b")\x81" + mapping([(key, b"N")]) + b"b"
        yield _x(f"a state with {label} for a key", state, SOUND)
    for first, second in ((b"K\1", text("1")), (b"\x88", text("True")), (number(-5), text("-5"))):
        yield _pickle(
            f"one name as {first!r} and as text",
            whole(mapping([(first, WEIGHT), (second, WEIGHT)])),
            Code.TENSOR_TWICE,
            "they are two keys, but one name",
        )
    twice = named({"a.b": WEIGHT, "a": named({"b": WEIGHT})})
    yield _pickle("one name with a dot and nested", whole(twice), Code.TENSOR_TWICE, "they are two keys, but one name")


def _pickle_reads(label: str, value: bytes, reads: Reads, trusted: str = "") -> Case:
    return Case(label, partial(_file, whole(value)), reads, trusted)


TARGETS = {
    "None": b"N",
    "a number": b"K\1",
    "text": text("x"),
    "True": b"\x88",
    "bytes": b"C\1a",
    "a float": pickles.real(1.0),
    "a tuple": b")",
    "a storage": storage("0", 16),
    "a class": name("m", "C"),
}


def wrong_targets() -> Iterator[Case]:
    for label, target in TARGETS.items():
        for does, more in {
            "an item": b"Na",
            "items": b"(NNe",
            "an entry": b"NNs",
            "entries": b"(NNu",
            "members": b"(N\x90",
            "a state": b"}b",
        }.items():
            yield _x(f"{label} is given {does}", target + more, Code.PICKLE_TARGET)
    for label, target, more in (
        ("a list", b"]", b"NNs"),
        ("a list", b"]", b"(N\x90"),
        ("a dict", b"}", b"Na"),
        ("a dict", b"}", b"(N\x90"),
        ("a list", b"]", b"}b"),
    ):
        yield _x(f"{label} is given {more!r}", target + more, Code.PICKLE_TARGET)
    for opcode in (b"u", b"d"):
        for count in (1, 3):
            yield _x(
                f"{count} values for {opcode!r}",
                (b"}(" if opcode == b"u" else b"(") + b"N" * count + opcode,
                Code.PICKLE_PAIRS,
            )


MODULES = (
    "m",
    "user.models",
    "torch.nn.modules.linear",
    "__main__",
    "",
    "a b",
    "é",
    "numpy.core.multiarray",
    "torch._utils",
    "\x1b[31m",
)


def unknown_globals() -> Iterator[Case]:
    for module in MODULES:
        for attribute in ("C", "a.b.c", "<locals>", "", "_rebuild_something"):
            thing = name(module, attribute)
            yield _x(f"{module!r}.{attribute!r} named", thing, SOUND)
            yield _x(f"{module!r}.{attribute!r} called", call(thing, number(1)), SOUND)
    for function, more in (
        (name("torch._utils", "_rebuild_new"), ()),
        (name("user", "make"), (number(1),)),
        (name("torch.nn", "Parameter"), ()),
    ):
        expected = Reads({"x": seeds.FLOATS}, findings=("unknown-tensor",))
        state = named({"w": call(function, storage("0", 16), *more), "x": WEIGHT})
        yield _pickle_reads("a call that is not known makes a tensor of a storage", state, expected)
    for raw in (b"c\xff\nx\n", b"cm\n\xff\n"):
        yield _x(f"a class named {raw!r}", raw, Code.PICKLE_TEXT)
    for pair in (b"NN", b"K\1" + text("x"), text("m") + b"]", text("m") + b"C\1a"):
        yield _x(f"STACK_GLOBAL of {pair[:6]!r}", pair + b"\x93", Code.PICKLE_GLOBAL)


DANGEROUS = (
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "compile"),
    ("builtins", "__import__"),
    ("builtins", "open"),
    ("builtins", "getattr"),
    ("__builtin__", "eval"),
    ("__builtin__", "execfile"),
    ("runpy", "run_path"),
    ("pty", "spawn"),
    ("socket", "socket"),
    ("shutil", "rmtree"),
    ("importlib", "import_module"),
    ("ctypes", "CDLL"),
    ("pickle", "loads"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("webbrowser", "open"),
    ("code", "interact"),
    ("pip", "main"),
    ("operator", "attrgetter"),
    ("types", "FunctionType"),
    ("marshal", "loads"),
    ("sys", "exit"),
    ("os", "remove"),
)


def dangerous_globals() -> Iterator[Case]:
    reads = replace(SOUND, findings=("dangerous-global",))
    for module, attribute in DANGEROUS:
        thing = name(module, attribute)
        yield _x(f"{module}.{attribute} called by REDUCE", call(thing, text("touch /tmp/x")), reads)
        yield _x(f"{module}.{attribute} called by NEWOBJ", thing + row(text("x")) + b"\x81", reads)
        yield _x(
            f"{module}.{attribute} named by STACK_GLOBAL", text(module) + text(attribute) + b"\x93", reads, protocol=4
        )
    ex = name("os", "system") + row(text("x")) + b"}\x92"
    yield _x("os.system called by NEWOBJ_EX", ex, reads, protocol=4)
    yield _x("os.system called and dropped", call(name("os", "system"), text("x")) + b"0N", reads)
    yield _pickle_reads(
        "os.system as the hooks of a tensor",
        named({"w": WEIGHT.replace(ordered(), call(name("os", "system"), text("x")))}),
        reads,
    )
    yield _pickle_reads(
        "os.system in a state",
        named({"w": WEIGHT, "x": ordered() + call(name("os", "system"), text("x")) + b"b"}),
        reads,
    )


def bad_ids() -> Iterator[Case]:
    kind = name("torch", "FloatStorage")
    good = [text("storage"), kind, text("0"), text("cpu"), number(16)]
    ids: dict[str, bytes] = {
        "None": b"N",
        "text": text("storage"),
        "a number": number(0),
        "an empty tuple": b")",
        "a list": b"]",
        "a dict": b"}",
    }
    for size in range(5):
        ids[f"its first {size} fields"] = row(*good[:size])
    for place, field in enumerate(("tag", "type", "key", "location", "numel")):
        for label, wrong in (
            ("None", b"N"),
            ("a list", b"]"),
            ("a float", pickles.real(16.0)),
            ("bytes", b"C\x010"),
            ("True", b"\x88"),
            ("a dict", b"}"),
        ):
            if field != "location":
                ids[f"{label} for its {field}"] = row(*(wrong if at == place else part for at, part in enumerate(good)))
    ids["another tag"] = row(text("module"), *good[1:])
    ids["a number for its key"] = row(*good[:2], number(0), *good[3:])
    ids["a text for its type"] = row(good[0], text("FloatStorage"), *good[2:])
    ids["-1 for its numel"] = row(*good[:4], number(-1))
    for label, value in ids.items():
        yield _w(f"a tensor on {label}", tensor(value + b"Q", 0, (4, 4), (4, 1)), Code.STORAGE_ID)
    for label, place in (("None", b"N"), ("a list", b"]"), ("a class", kind), ("a tuple", row(*good))):
        yield _w(f"a tensor on {label} that is no storage", tensor(place, 0, (4, 4), (4, 1)), Code.STORAGE_ID)
    for kind in ("Storage", "FloatTensor", "float32", "StringStorage", "floatstorage", ""):
        yield _w(
            f"a storage of type torch.{kind}", tensor(storage("0", 16, kind), 0, (4, 4), (4, 1)), Code.STORAGE_TYPE
        )
    for module in ("os", "builtins", "torchx", "nottorch", "", "numpy"):
        yield _w(
            f"a storage of type {module}.FloatStorage",
            tensor(storage("0", 16, module=module), 0, (4, 4), (4, 1)),
            Code.STORAGE_TYPE,
        )
    for key in ("../0", "/etc/passwd", "0/", "0\0", "00", " 0", "0\n", "\x1b[31m", "\u202e0", "é", "9" * 1000, ""):
        yield _w(f"a storage called {key[:12]!r}", tensor(storage(key, 16), 0, (4, 4), (4, 1)), Code.STORAGE_MISSING)


def conflicts() -> Iterator[Case]:
    kinds = {
        "IntStorage": 4,
        "DoubleStorage": 8,
        "HalfStorage": 2,
        "ByteStorage": 1,
        "BoolStorage": 1,
        "BFloat16Storage": 2,
        "LongStorage": 8,
        "ComplexFloatStorage": 8,
        "QInt32Storage": 4,
    }
    for kind, width in kinds.items():
        numel = 64 // width
        other = tensor(storage("0", numel, kind), 0, (numel,), (1,))
        for label, entries in (("first", {"a": other, "w": WEIGHT}), ("second", {"w": WEIGHT, "a": other})):
            yield _pickle(
                f"one storage of floats and of {kind}, the {label}", whole(named(entries)), Code.STORAGE_CONFLICT
            )
    other = tensor(storage("0", 16, "UntypedStorage", module="torch.storage"), 0, (4, 4), (4, 1))
    yield _pickle("one storage of floats and untyped", whole(named({"a": other, "w": WEIGHT})), Code.STORAGE_CONFLICT)
    for numel in (15, 17, 0, 8):
        other = tensor(storage("0", numel), 0, (min(numel, 4),), (1,))
        yield _pickle(
            f"one storage of 16 and of {numel} numbers", whole(named({"w": WEIGHT, "a": other})), Code.STORAGE_SIZE
        )


def _tensor(offset: bytes = b"K\0", size: bytes | None = None, stride: bytes | None = None) -> bytes:
    size, stride = size or numbers((4, 4)), stride or numbers((4, 1))
    return call(
        name("torch._utils", "_rebuild_tensor_v2"), storage("0", 16), offset, size, stride, pickles.FALSE, ordered()
    )


def bad_numbers() -> Iterator[Case]:
    wrong = {
        "-1": number(-1),
        "-2^31": number(-(2**31)),
        "-2^63": number(-(2**63)),
        "2^63": number(2**63),
        "2^64": number(2**64),
        "None": b"N",
        "a float": pickles.real(1.0),
        "text": text("1"),
        "a list": b"]",
        "True": b"\x88",
        "-2^100": number(-(2**100)),
    }
    for label, value in wrong.items():
        yield _w(f"offset {label}", _tensor(value), Code.TENSOR_SHAPE)
        for place in range(2):
            pair = [number(4), number(1)]
            pair[place] = value
            yield _w(f"size {place} is {label}", _tensor(size=row(*pair)), Code.TENSOR_SHAPE)
            yield _w(f"stride {place} is {label}", _tensor(stride=row(*pair)), Code.TENSOR_SHAPE)
    for size, stride in (
        ((4, 4), (4,)),
        ((4,), (4, 1)),
        ((), (1,)),
        ((1,) * 65, (1,) * 65),
        ((1,) * 1000, (1,) * 1000),
    ):
        yield _w(
            f"{len(size)} sizes and {len(stride)} strides",
            _tensor(size=numbers(size), stride=numbers(stride)),
            Code.TENSOR_SHAPE,
            "torch allows more than 64 dimensions",
        )
    for label, value in {
        "None": b"N",
        "a number": number(16),
        "a dict": b"}",
        "text": text("44"),
        "a call": call(name("m", "Size")),
    }.items():
        yield _w(f"{label} for a size", _tensor(size=value), Code.TENSOR_SHAPE)
        yield _w(f"{label} for a stride", _tensor(stride=value), Code.TENSOR_SHAPE)
    for count in range(4):
        arguments = [storage("0", 16), number(0), numbers((4, 4)), numbers((4, 1))][:count]
        yield _w(
            f"a tensor of {count} arguments",
            call(name("torch._utils", "_rebuild_tensor_v2"), *arguments),
            Code.TENSOR_ARGUMENTS,
        )


TRANSPOSED = struct.pack("<16f", *(4 * row + column for column in range(4) for row in range(4)))


def past_the_storage() -> Iterator[Case]:
    views = (
        *(
            (1, (4, 4), (4, 1)),
            (13, (4,), (1,)),
            (16, (1,), (1,)),
            (0, (4, 4), (5, 1)),
            (0, (4, 5), (4, 1)),
            (0, (17,), (1,)),
        ),
        *((0, (2,), (16,)), (15, (2,), (1,)), (17, (), ()), (16, (), ()), (0, (2, 2), (15, 1)), (1 << 40, (1,), (1,))),
        *(
            (0, (16, 2), (1, 1)),
            (0, (4, 4), (1, 5)),
            (0, (2, 2, 2, 2, 2), (16, 8, 4, 2, 1)),
            (4, (4, 4), (4, 1)),
            (1 << 62, (), ()),
        ),
    )
    for offset, size, stride in views:
        yield _w(
            f"offset {offset}, size {size}, stride {stride} of 16",
            tensor(storage("0", 16), offset, size, stride),
            Code.TENSOR_RANGE,
        )
    for offset, size, stride, content in (
        (15, (), (), seeds.FLOATS[60:]),
        (0, (4, 4), (1, 4), TRANSPOSED),
        (3, (2, 2), (0, 1), seeds.FLOATS[12:20] * 2),
        (12, (4,), (1,), seeds.FLOATS[48:]),
        (16, (0,), (1,), b""),
        (99, (0, 3), (3, 1), b""),
    ):
        reads = Reads({"w": content})
        yield _w(
            f"offset {offset}, size {size}, stride {stride} of 16, which fits",
            tensor(storage("0", 16), offset, size, stride),
            reads,
            "torch refuses an empty view behind the end" if offset == 99 else "",
        )


def stride_overflows() -> Iterator[Case]:
    for size, stride in (
        ((2, 2), (2**63 - 1, 1)),
        ((2, 2), (2**62, 2**62)),
        ((2**62, 4), (4, 1)),
        ((2**63 - 1,), (1,)),
        ((2**32, 2**32), (2**32, 1)),
        ((3,), (2**62,)),
        ((2**40, 2**40), (1, 1)),
        ((2**61 + 1,), (8,)),
        ((2**31, 2**31, 4), (1, 1, 1)),
        ((5,), (2**62 + 1,)),
    ):
        yield _w(f"size {size}, stride {stride}", tensor(storage("0", 16), 0, size, stride), Code.TENSOR_RANGE)
        yield _w(
            f"size {size}, stride {stride}, and a size of 0",
            tensor(storage("0", 16), 0, (*size, 0), (*stride, 1)),
            Reads({"w": None}),
            "torch computes such strides",
        )
    for size in ((2**40,), (2**31, 2**20), (2**63 - 1,), (2**62, 2**62), (2**29,)):
        yield _w(
            f"size {size} of one number",
            tensor(storage("0", 16), 0, size, (0,) * len(size)),
            Code.LIMIT_EXPANSION,
            "torch makes a view of it, which no memory can hold when it is copied",
        )


def huge_numels() -> Iterator[Case]:
    for numel in (2**63, 2**64, 2**64 + 16, 10**30, 2**100):
        yield _w(f"a storage of {numel} numbers", tensor(storage("0", numel), 0, (4, 4), (4, 1)), Code.STORAGE_ID)
    for numel in (2**63 - 1, 2**62, 2**62 + 16, 2**61 + 16, 2**40, 2**31, 2**30 + 16, 17, 15, 0):
        yield _w(f"a storage of {numel} numbers", tensor(storage("0", numel), 0, (4, 4), (4, 1)), Code.STORAGE_SIZE)


def giant_integers() -> Iterator[Case]:
    for size in (257, 1000, 65_536, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):
        length = struct.pack("<I", size)
        yield _x(f"LONG4 of {size} bytes that are not there", b"\x8b" + length, Code.LIMIT_INTEGER)
        if size <= 1 << 20:
            yield _x(
                f"LONG4 of {size} bytes",
                b"\x8b" + length + bytes(size - 1) + b"\1",
                Code.LIMIT_INTEGER,
                "torch has no limit",
            )
    for size in (0, 1, 8, 255, 256):
        yield _x(f"LONG4 of {size} bytes", b"\x8b" + struct.pack("<I", size) + b"\1" * size, SOUND)
    for opcode, end in ((b"I", b"\n"), (b"L", b"L\n")):
        for digits in (300, 5000, 1_000_000):
            yield _x(f"{opcode!r} of {digits} digits", opcode + b"9" * digits + end, Code.LIMIT_INTEGER)
        for wrong in (b"", b"x", b"1x", b"0x", b"1.5", b"--1", b"\xff", b"1e5"):
            yield _x(f"{opcode!r} of {wrong!r}", opcode + wrong + end, Code.PICKLE_NUMBER)
    for wrong in (b"", b"x", b"1x", b"0x10", b"1..5"):
        yield _x(f"FLOAT of {wrong!r}", b"F" + wrong + b"\n", Code.PICKLE_NUMBER)
    for wrong in (b"x", b"'", b"'x", b"x'", b"\"x'"):
        yield _x(f"STRING of {wrong!r}", b"S" + wrong + b"\n", Code.PICKLE_STRING)
    for opcode in (b"X\1\0\0\0", b"\x8c\1", b"\x8d\1" + bytes(7)):
        for raw in (b"\xff", b"\x80", b"\xc0"):
            yield _x(f"text {raw!r} by {opcode[:1]!r}", opcode + raw, Code.PICKLE_TEXT)


def _framed(size: int, content: bytes) -> bytes:
    return b"\x95" + struct.pack("<Q", size) + content


def frames() -> Iterator[Case]:
    body = named({"w": WEIGHT}) + b"."
    size = len(body)
    yield Case("one frame", partial(_file, b"\x80\4" + _framed(size, body)), SOUND)
    yield Case("a frame of nothing", partial(_file, b"\x80\4" + _framed(0, body)), SOUND)
    chunks = pickles.split(b"\x80\4" + body)[1:]
    at = 0
    for chunk in chunks[:-1]:
        for inside in range(1, len(chunk)):
            if inside in (1, len(chunk) - 1):
                yield Case(
                    f"a frame that ends {inside} bytes into {chunk[:1]!r} at {at}",
                    partial(_file, b"\x80\4" + _framed(at + inside, body)),
                    Refused(Code.PICKLE_FRAME),
                )
        at += len(chunk)
        if chunk[:1] == b"}":
            yield Case(
                f"a frame that ends at {at}, between two opcodes", partial(_file, b"\x80\4" + _framed(at, body)), SOUND
            )
    for more in (1, 8, 1 << 20, 1 << 32, 1 << 63, (1 << 64) - size - 1):
        yield Case(
            f"a frame {more} bytes longer than the file",
            partial(_file, b"\x80\4" + _framed(size + more, body)),
            Refused(Code.PICKLE_FRAME),
        )
    yield Case(
        "a frame within a frame",
        partial(_file, b"\x80\4" + _framed(size + 9, _framed(size, body))),
        Refused(Code.PICKLE_FRAME),
    )


def protocols() -> Iterator[Case]:
    for protocol in range(6):
        reads = Reads({"w": seeds.FLOATS})
        yield Case(f"protocol {protocol}", partial(_beside, b"N", protocol), reads)
    for protocol in (6, 7, 127, 128, 255):
        yield Case(f"protocol {protocol}", partial(_beside, b"N", protocol), Refused(Code.PICKLE_PROTOCOL))
    for label in ("text opcodes", "sets and bytes"):
        reads = Reads({"weight" if label == "text opcodes" else "w": seeds.FLOATS})
        yield Case(label, partial(_file, seeds.PICKLES[label]), reads)
    for label in ("protocol 4", "protocol 5"):
        yield Case(f"{label}, as it writes", partial(_file, seeds.PICKLES[label]), Reads({"weight": seeds.FLOATS}))
    body = named({"w": WEIGHT}) + b"."
    yield Case("no protocol", partial(_file, body), SOUND)
    yield Case("protocol 2 twice", partial(_file, b"\x80\2\x80\2" + body), SOUND)
    yield Case("protocol 2, then 9", partial(_file, b"\x80\2\x80\x09" + body), Refused(Code.PICKLE_PROTOCOL))


TRUSTED = {
    58: "torch does not look behind STOP, nor at what else is on the stack",
    62: "torch takes any memo entry",
    66: "torch makes what is doubled",
    70: "torch takes any key",
    74: "torch takes a number for a key, or bytes",
    75: "torch takes the type that it meets first for both",
    71: "torch gives a state to what is no object",
    76: "torch takes True for 1, and strides that are none",
    78: "torch makes views of any size",
    80: "torch has no limit",
    82: "torch warns of a protocol that it does not know, and goes on",
}
MAKERS: Makers = {
    57: truncated,
    58: trailing,
    59: unknown_opcodes,
    60: underflow,
    61: missing_marks,
    62: bad_memo_gets,
    63: huge_memo_indexes,
    64: huge_lengths,
    65: depth,
    66: doubling,
    67: dup_bombs,
    68: cycles,
    69: unhashable_keys,
    70: other_keys,
    71: wrong_targets,
    72: unknown_globals,
    73: dangerous_globals,
    74: bad_ids,
    75: conflicts,
    76: bad_numbers,
    77: past_the_storage,
    78: stride_overflows,
    79: huge_numels,
    80: giant_integers,
    81: frames,
    82: protocols,
}
