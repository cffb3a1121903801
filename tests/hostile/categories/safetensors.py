"""Categories 1 to 30: safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import combinations
from math import prod

from qkvinspect.dtypes import DTYPES
from qkvinspect.error_codes import Code
from qkvinspect.formats.safetensors import CODES
from tests.hostile import seeds
from tests.hostile.categories.case import Case, Huge, Makers, Reads, Refused, refused
from tests.hostile.memory import MemoryFile
from tests.hostile.writers.headers import pairs, safetensors

SIZE = 24
DATA = bytes(range(3 * SIZE))
NAMES = ("first", "middle", "last")
PLACES = tuple(enumerate(NAMES))
SOUND = {name: DATA[SIZE * place : SIZE * (place + 1)] for place, name in PLACES}
_FIELD_TEXT = b'{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}'


def _entry(place: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [SIZE * place, SIZE * (place + 1)]}


def _entries(place: int, **fields: object) -> list[tuple[str, object]]:
    return [(name, {**_entry(at), **fields} if at == place else _entry(at)) for at, name in PLACES]


def _among(place: int, **fields: object) -> bytes:
    """Three tensors of 24 bytes, one of them with other fields."""
    return safetensors(pairs(_entries(place, **fields)), DATA)


def _with_text(text: bytes, data: bytes = DATA[:SIZE]) -> bytes:
    return safetensors(text, data)


def _each_place(values: Iterable[object], field: str) -> Iterator[tuple[str, partial[bytes]]]:
    for value in values:
        for place, name in PLACES:
            shown = repr(value) if len(repr(value)) < 50 else f"{repr(value)[:30]}... ({len(repr(value))} characters)"
            yield f"{field} {shown} of the {name} tensor", partial(_among, place, **{field: value})


def _metadata(text: bytes) -> bytes:
    return _with_text(b'{"__metadata__":' + text + b',"w":' + _FIELD_TEXT + b"}")


def empty() -> Iterator[Case]:
    names = ("model.safetensors", "model.pt", "model.bin", "model.ckpt", "model.safetensors.index.json", "model")
    yield from refused(Code.FILE_EMPTY, {f"no bytes, called {name}": partial(MemoryFile, b"", name) for name in names})


def short() -> Iterator[Case]:
    whole = seeds.SAFETENSORS["two"]
    for count in range(1, 9):
        yield Case(f"{count} zero bytes", partial(bytes, count), Refused(Code.NOT_A_CHECKPOINT))
        yield Case(
            f"the first {count} of a file", partial(whole.__getitem__, slice(count)), Refused(Code.NOT_A_CHECKPOINT)
        )
        yield Case(f"{count} braces", partial(bytes.__mul__, b"{", count), Refused(Code.INDEX_JSON))


def length_past_the_file() -> Iterator[Case]:
    text = json.dumps({"w": _entry(0)}).encode()
    for more in (1, 2, 7, 8, 100, 1 << 10, 1 << 16, 1 << 20):
        build = partial(safetensors, text, DATA[:SIZE], len(text) + SIZE + more)
        yield Case(f"a header that ends {more} bytes past the file", build, Refused(Code.SAFETENSORS_LENGTH))
    for more in (1, 8, SIZE):
        build = partial(safetensors, text, DATA[:SIZE], len(text) + more)
        yield Case(f"a header that takes {more} bytes of the data", build, Refused(Code.SAFETENSORS_JSON))
    for less in (1, 2, 10, len(text) - 1):
        build = partial(safetensors, text, DATA[:SIZE], len(text) - less)
        yield Case(f"a header that is said to be {less} bytes shorter", build, Refused(Code.SAFETENSORS_JSON))
    yield Case("a header of no bytes", partial(safetensors, text, DATA[:SIZE], 0), Refused(Code.SAFETENSORS_JSON))


def claims_a_gigabyte() -> Iterator[Case]:
    for claim in (10**9, (1 << 30) - 1, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 10**12):
        build = partial(safetensors, {"w": _entry(0)}, DATA[:SIZE], claim)
        yield Case(f"a small file whose header has {claim} bytes", build, Refused(Code.SAFETENSORS_LENGTH))
        head = safetensors(b"{", b"", claim)
        yield Case(
            f"a sparse file whose header has {claim} bytes", partial(Huge, head, claim + 8), Refused(Code.LIMIT_HEADER)
        )


def length_of_64_bits() -> Iterator[Case]:
    for claim in (1 << 40, 1 << 48, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1):
        build = partial(safetensors, {"w": _entry(0)}, DATA[:SIZE], claim)
        yield Case(f"a header of {claim} bytes", build, Refused(Code.SAFETENSORS_LENGTH))
    for claim in ((0x7B << 56) + 0x7B, (1 << 48) + 0x7B):
        build = partial(safetensors, {"w": _entry(0)}, DATA[:SIZE], claim)
        yield Case(f"a header of {claim} bytes, which begins as JSON does", build, Refused(Code.INDEX_JSON))


def header_of_100_mb() -> Iterator[Case]:
    most = 100_000_000
    sound = b'{"w":%b' % _FIELD_TEXT

    def padded(size: int) -> bytes:
        return _with_text(sound + b" " * (size - len(sound) - 1) + b"}")

    def described(size: int) -> bytes:
        start = b'{"__metadata__":{"note":"'
        return _with_text(start + b"x" * (size - len(start) - len(sound) - 3) + b'"},' + sound[1:] + b"}")

    reads = Reads({"w": DATA[:SIZE]})
    yield Case("spaces up to the limit", partial(padded, most), reads, megabytes=512)
    yield Case("metadata up to the limit", partial(described, most), reads, megabytes=768)
    yield from refused(
        Code.LIMIT_HEADER,
        {
            "spaces, one byte over the limit": partial(padded, most + 1),
            "metadata, one byte over the limit": partial(described, most + 1),
        },
    )


def _many(count: int, last: bytes = b"") -> bytes:
    rows = (b'"t%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}' % (n, n, n + 1) for n in range(count))
    return safetensors(b"{" + b",".join(rows) + last + b"}", bytes(n & 0xFF for n in range(count)))


def a_hundred_thousand_tensors() -> Iterator[Case]:
    for count in (10_000, 100_000):
        yield from _so_many_tensors(count)


def _so_many_tensors(count: int) -> Iterator[Case]:
    some = {f"t{n}": bytes([n & 0xFF]) for n in (0, 1, 255, 256, count - 1)}
    yield Case(f"{count:,} tensors", partial(_many, count), Reads(some, count))
    entry = b',"%b":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    for label, code, more in (
        ("the last is called as the first", Code.SAFETENSORS_DUPLICATE, entry % (b"t0", count - 1, count)),
        ("one more shares the last's bytes", Code.SAFETENSORS_OVERLAP, entry % (b"more", count - 1, count)),
        ("one more lies behind the file", Code.SAFETENSORS_RANGE, entry % (b"more", count, count + 1)),
    ):
        yield Case(f"{count:,} tensors, {label}", partial(_many, count, more), Refused(code))


def a_million_tensors() -> Iterator[Case]:
    count = 1_000_000
    some = {f"t{n}": bytes([n & 0xFF]) for n in (0, count - 1)}
    yield Case("1,000,000 tensors", partial(_many, count), Reads(some, count), megabytes=2048)


NOT_UTF8 = {
    "a byte FF": b"\xff",
    "a byte 80": b"\x80",
    "an overlong NUL": b"\xc0\x80",
    "an overlong slash": b"\xe0\x80\xaf",
    "a surrogate": b"\xed\xa0\x80",
    "over U+10FFFF": b"\xf4\x90\x80\x80",
    "half a character": b"\xe2\x82",
    "Latin-1": b"\xe9",
}


def not_utf8() -> Iterator[Case]:
    for label, raw in NOT_UTF8.items():
        texts = {
            "a name": b'{"w%b":%b}' % (raw, _FIELD_TEXT),
            "the metadata": b'{"__metadata__":{"k":"%b"},"w":%b}' % (raw, _FIELD_TEXT),
            "a key of the metadata": b'{"__metadata__":{"%b":"v"},"w":%b}' % (raw, _FIELD_TEXT),
            "a dtype": b'{"w":%b}' % _FIELD_TEXT.replace(b"F32", b"F32" + raw),
            "between the tensors": b'{"w":%b%b}' % (_FIELD_TEXT, raw),
        }
        yield from refused(
            Code.SAFETENSORS_JSON,
            ((f"{label} in {place}", partial(_with_text, text)) for place, text in texts.items()),
        )


def byte_order_marks() -> Iterator[Case]:
    text = json.dumps({"w": _entry(0)})
    for encoding in ("utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be"):
        code = Code.SAFETENSORS_JSON if encoding == "utf-8-sig" else Code.NOT_A_CHECKPOINT
        yield Case(f"a header in {encoding}", partial(_with_text, text.encode(encoding)), Refused(code))
    for encoding in ("utf-16-le", "utf-32-le"):
        yield Case(
            f"a header in {encoding}", partial(_with_text, text.encode(encoding)), Refused(Code.SAFETENSORS_JSON)
        )
    for where, place in (("before a name", 1), ("behind the last brace", len(text))):
        marked = text[:place].encode() + b"\xef\xbb\xbf" + text[place:].encode()
        yield Case(f"a mark {where}", partial(_with_text, marked), Refused(Code.SAFETENSORS_JSON))


NOT_JSON = (
    *(b"{", b"{]", b"{}}", b"{{}}", b"{'w':1}", b"{w:1}", b'{"w"}', b'{"w":}', b'{"w":1,}', b'{,"w":1}', b'{"w" 1}'),
    *(b'{"w":01}', b'{"w":+1}', b'{"w":.5}', b'{"w":1.}', b'{"w":0x1}', b'{"w":1e}', b'{"w":NaN}', b'{"w":Infinity}'),
    *(
        b'{"w":-Infinity}',
        b'{"w":True}',
        b'{"w":None}',
        b'{"w":undefined}',
        b'{"w":"\n"}',
        b'{"w":"\0"}',
        b'{"\x1b":1}',
    ),
    *(b'{"w":"\\x41"}', b'{"w":"\\u12"}', b'{"w":"\\"}', b"{/* */}", b"{} // x", b'{"w":1 "v":2}', b'{"w":[1,]}'),
    *(b'{"w":[1 2]}', b'{"w":1}{"v":2}', b"{\0}", b"{\xc2\xa0}", b'{"w":nul}', b'{"w":tru}', b'{"w":-}', b'{"w":"'),
)


def not_json() -> Iterator[Case]:
    yield from refused(Code.SAFETENSORS_JSON, ((f"the header {t!r}", partial(_with_text, t)) for t in NOT_JSON))
    text = b'{"w":%b}' % _FIELD_TEXT
    cuts = ((f"a header that stops at byte {n}", partial(_with_text, text[:n])) for n in range(1, len(text)))
    yield from refused(Code.SAFETENSORS_JSON, cuts)


def other_roots() -> Iterator[Case]:
    text = b'{"w":%b}' % _FIELD_TEXT
    roots = (b"[]", b"[" + text + b"]", b'"w"', b"1", b"-1", b"1.5", b"null", b"true", b"NaN", b"", b" ")
    yield from refused(
        Code.NOT_A_CHECKPOINT, ((f"the header {root[:20]!r}", partial(_with_text, root)) for root in roots)
    )
    for space in (b" ", b"\n", b"\t", b"\r\n", b" " * 8):
        yield Case(
            f"{space!r} before the header",
            partial(_with_text, space + text),
            Refused(Code.SAFETENSORS_JSON),
            "its own documentation says that a header begins with a brace, but it skips space",
        )


def _nested(depth: int, bracket: str) -> bytes:
    return b"[" * depth + b"]" * depth if bracket == "[" else b'{"a":' * depth + b"1" + b"}" * depth


def _deep(text: bytes, depth: int, bracket: str) -> bytes:
    return _with_text(text.replace(b"%b", _nested(depth, bracket)), b"a")


def nesting() -> Iterator[Case]:
    for bracket in "[{":
        for depth in (2, 100, 900, 4_000, 100_000, 600_000):
            code = Code.LIMIT_OBJECTS if depth > 400_000 else Code.SAFETENSORS_JSON if depth > 1000 else None
            places = {
                "the metadata": (b'{"__metadata__":{"a":%b}}', Code.SAFETENSORS_METADATA),
                "a shape": (b'{"w":{"dtype":"U8","shape":%b,"data_offsets":[0,1]}}', Code.SAFETENSORS_SHAPE),
                "data_offsets": (b'{"w":{"dtype":"U8","shape":[1],"data_offsets":%b}}', Code.SAFETENSORS_OFFSETS),
                "a dtype": (b'{"w":{"dtype":%b,"shape":[1],"data_offsets":[0,1]}}', Code.SAFETENSORS_DTYPE),
                "an unknown field": (
                    b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":%b}}',
                    Code.SAFETENSORS_FIELDS,
                ),
                "place of a tensor": (b'{"w":%b}', Code.SAFETENSORS_FIELDS),
            }
            for place, (text, plain) in places.items():
                build = partial(_deep, text, depth, bracket)
                trusted = "it skips fields that it does not know" if place == "an unknown field" and depth < 128 else ""
                yield Case(f"{depth} times {bracket!r} in {place}", build, Refused(code or plain), trusted)


def junk_behind_the_header() -> Iterator[Case]:
    text = b'{"w":%b}' % _FIELD_TEXT
    for junk in (
        b"\0",
        b"\0" * 8,
        b"x",
        b"{}",
        b"]",
        b"}",
        b",",
        b'""',
        b"\x1a",
        b"\xff",
        b" \0",
        b"\n\0",
        b"\x0b",
        b"\x0c",
    ):
        yield Case(f"{junk!r} behind the header", partial(_with_text, text + junk), Refused(Code.SAFETENSORS_JSON))
    for space in (b" ", b" " * 7, b"\n", b"\t", b"\r\n"):
        yield Case(f"{space!r} behind the header", partial(_with_text, text + space), Reads({"w": DATA[:SIZE]}))


LAST = "it keeps the last of two"


def duplicate_names() -> Iterator[Case]:
    for place, name in PLACES:
        others: dict[str, dict[str, object]] = {
            "the same again": {},
            "another dtype": {"dtype": "I32"},
            "another shape": {"shape": [3, 2]},
            "other bytes": {"data_offsets": _entry((place + 1) % 3)["data_offsets"]},
        }
        for label, fields in others.items():
            twice = (name, {**_entry(place), **fields})
            build = partial(safetensors, pairs([*_entries(place), twice]), DATA)
            trusted = "" if label == "other bytes" else LAST
            yield Case(f"the {name} tensor twice, {label}", build, Refused(Code.SAFETENSORS_DUPLICATE), trusted)
    for first, second in (
        (b"a", rb"\u0061"),
        (rb"\u00e9", "é".encode()),
        (b"", b""),
        (rb"\/", b"/"),
        (rb"\n", rb"\u000a"),
    ):
        text = b'{"%b":%b,"%b":%b}' % (first, _FIELD_TEXT, second, _FIELD_TEXT)
        label = f"one name written as {first.decode()!r} and {second.decode()!r}"
        yield Case(label, partial(_with_text, text), Refused(Code.SAFETENSORS_DUPLICATE), LAST)


def duplicate_fields() -> Iterator[Case]:
    values: dict[str, tuple[object, ...]] = {
        "dtype": ("F32", "I32", None),
        "shape": ([2, 3], [3, 2], []),
        "data_offsets": ([0, 24], [24, 48], [0, 0]),
    }
    for place, name in PLACES:
        for field, others in values.items():
            for other in others:
                sound = json.dumps(_entry(place)).encode()
                text = pairs(_entries(place)).replace(sound, pairs([*_entry(place).items(), (field, other)]))
                label = f"{field} of the {name} tensor twice, the second {other!r}"
                yield Case(label, partial(safetensors, text, DATA), Refused(Code.SAFETENSORS_DUPLICATE))


def duplicate_metadata() -> Iterator[Case]:
    for first, second in ((b"1", b"1"), (b"1", b"2"), (b"", b"x")):
        for key, again in ((b"format", b"format"), (b"", b""), (b"a", rb"\u0061"), ("é".encode(), rb"\u00e9")):
            text = b'{"%b":"%b","%b":"%b"}' % (key, first, again, second)
            yield Case(f"metadata {text!r}", partial(_metadata, text), Refused(Code.SAFETENSORS_DUPLICATE), LAST)
    for first, second in ((b"{}", b"{}"), (b'{"a":"b"}', b"{}"), (b"{}", b'{"a":"b"}')):
        text = b'{"__metadata__":%b,"w":%b,"__metadata__":%b}' % (first, _FIELD_TEXT, second)
        label = f"__metadata__ {first!r} and {second!r}"
        yield Case(label, partial(_with_text, text), Refused(Code.SAFETENSORS_DUPLICATE))


def metadata_types() -> Iterator[Case]:
    for value in (b"1", b"1.5", b"true", b"null", b"[]", b'["pt"]', b"{}", b'{"a":"b"}', b"-0", b"1e400"):
        for text in (b'{"k":%b}' % value, b'{"a":"b","k":%b}' % value):
            yield Case(f"metadata {text!r}", partial(_metadata, text), Refused(Code.SAFETENSORS_METADATA))
    for value in (b"1", b'"x"', b"true", b"null", b"[]", b'[["a","b"]]', b"1.5"):
        trusted = "it takes null for no metadata" if value == b"null" else ""
        yield Case(f"metadata {value!r}", partial(_metadata, value), Refused(Code.SAFETENSORS_METADATA), trusted)


FIELDS = ("dtype", "shape", "data_offsets")


def missing_fields() -> Iterator[Case]:
    for place, name in PLACES:
        for count in range(3):
            for kept in combinations(FIELDS, count):
                entry = {field: _entry(place)[field] for field in kept}
                header = pairs([(at, entry if at == name else value) for at, value in _entries(place)])
                label = f"the {name} tensor has only {', '.join(kept) or 'no field'}"
                yield Case(label, partial(safetensors, header, DATA), Refused(Code.SAFETENSORS_FIELDS))
        listed = [*_entry(place).values()]
        for entry in (None, 1, "F32", [], listed, listed[:2], [*listed, 1], True):
            header = pairs([(at, entry if at == name else value) for at, value in _entries(place)])
            label = f"the {name} tensor is {entry!r}"
            trusted = "it takes a list of the three values for the three fields" if entry is listed else ""
            yield Case(label, partial(safetensors, header, DATA), Refused(Code.SAFETENSORS_FIELDS), trusted)


def unknown_fields() -> Iterator[Case]:
    for field in ("x", "Dtype", "dtype ", "", "strides", "data", "offsets", "scale", "__metadata__", "requires_grad"):
        for place, name in PLACES:
            build = partial(_among, place, **{field: 1})
            label = f"the {name} tensor has a field {field!r}"
            yield Case(label, build, Refused(Code.SAFETENSORS_FIELDS), "it skips fields that it does not know")


UNKNOWN_DTYPES: tuple[object, ...] = (
    *("", "f32", "F32 ", " F32", "F33", "float32", "Float", "F128", "F6", "F8", "BF32", "I128", "U4", "I4", "C128"),
    *("STR", "F32\0", "Ｆ32", None, 1, 1.5, True, [], ["F32"], {}, {"F32": 1}),
)


def unknown_dtypes() -> Iterator[Case]:
    yield from refused(Code.SAFETENSORS_DTYPE, _each_place(UNKNOWN_DTYPES, "dtype"))


BAD_SHAPES: tuple[object, ...] = (
    *([-1, -6], [-2, 3], [2, -3], [2.0, 3], [2, 3.0], ["2", 3], ["2", "3"], [None, 6], [True, 6], [[2], 3], [[2, 3]]),
    *(
        [{}],
        {},
        {"0": 2, "1": 3},
        "2,3",
        "[2,3]",
        "",
        None,
        True,
        6,
        6.0,
        [1e300, 1],
        [2**63, 1],
        [2**64, 1],
        [6, -0.0],
    ),
)


def bad_shapes() -> Iterator[Case]:
    yield from refused(Code.SAFETENSORS_SHAPE, _each_place(BAD_SHAPES, "shape"))


def overflows() -> Iterator[Case]:
    products = (
        *([2**32, 2**32], [2**62, 4], [2**31, 2**31, 4], [2**63 - 1], [2**63 - 1, 2], [2**40, 2**40], [2**61 + 3]),
        *([2**64 // 4 + 6], [2**62 + 6], [2**16] * 4, [2**32, 2**30], [3, 2**63 - 1], [2**21] * 3, [2, 3, 2**61]),
    )
    yield from refused(Code.SAFETENSORS_SIZE, _each_place(products, "shape"))
    too_large = ([0, 2**63], [2**63, 0], [0, 2**64 - 1, 2**64 - 1], [0, 2**64], [0, 10**30])
    for shape in too_large:
        header = {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
        takes = max(shape) < 1 << 64
        trusted = "its sizes go to 2^64, torch's to 2^63" if takes else ""
        yield Case(
            f"a shape {shape} without bytes", partial(safetensors, header), Refused(Code.SAFETENSORS_SHAPE), trusted
        )
    for shape in ([0, 2**62], [2**62, 0], [0, 2**63 - 1, 2**63 - 1], [2**32, 2**32, 0]):
        header = {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
        yield Case(f"a shape {shape} without bytes", partial(safetensors, header), Reads({"w": None}))


def ranks() -> Iterator[Case]:
    for rank in (0, 1, 5, 63, 64, 65, 255, 1000, 1024):
        header = {"w": {"dtype": "F32", "shape": [1] * rank, "data_offsets": [0, 4]}}
        content = DATA[:4] if rank < 2 else None
        yield Case(f"rank {rank}", partial(safetensors, header, DATA[:4]), Reads({"w": content}))
    for rank in (1025, 10_000, 100_000):
        for size in (1, 0, 2**62):
            header = {"w": {"dtype": "F32", "shape": [size] * rank, "data_offsets": [0, 4 if size == 1 else 0]}}
            build = partial(safetensors, header, DATA[:4] if size == 1 else b"")
            trusted = "it has no limit" if size != 2**62 else ""
            yield Case(f"rank {rank} of sizes {size}", build, Refused(Code.SAFETENSORS_SHAPE), trusted)


def _placed(offsets: Iterable[tuple[int, int]], data: int) -> bytes:
    header = {
        f"t{n}": {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
        for n, (start, end) in enumerate(offsets)
    }
    return safetensors(header, bytes(range(data)))


def holes() -> Iterator[Case]:
    for size in (1, 2, 7, 8, 64):
        shapes = {
            "before the first": [(size, size + 8), (size + 8, size + 16)],
            "between two": [(0, 8), (8 + size, 16 + size)],
            "between two that come in the other order": [(8 + size, 16 + size), (0, 8)],
            "before one without bytes": [(0, 8), (8 + size, 8 + size), (8 + size, 16 + size)],
        }
        for where, offsets in shapes.items():
            yield Case(
                f"a hole of {size} bytes {where}", partial(_placed, offsets, 16 + size), Refused(Code.SAFETENSORS_HOLE)
            )


def overlaps() -> Iterator[Case]:
    for size in (1, 4, 7, 8):
        shapes = {
            "two": ([(0, 8), (8 - size, 16 - size)], 16 - size),
            "two in the other order": ([(8 - size, 16 - size), (0, 8)], 16 - size),
            "the last of three": ([(0, 8), (8, 16), (16 - size, 24 - size)], 24 - size),
            "the first of three": ([(0, 8), (8 - size, 16 - size), (16 - size, 24 - size)], 24 - size),
        }
        for which, (offsets, total) in shapes.items():
            build = partial(_placed, offsets, total)
            yield Case(f"{which} share {size} bytes", build, Refused(Code.SAFETENSORS_OVERLAP))
    yield Case("one lies within another", partial(_placed, [(0, 8), (2, 4)], 8), Refused(Code.SAFETENSORS_OVERLAP))
    for offsets in ([(0, 0), (0, 8)], [(0, 8), (8, 8)], [(0, 0), (0, 0), (0, 8)], [(0, 4), (4, 4), (4, 4), (4, 8)]):
        content = {f"t{n}": bytes(range(start, end)) for n, (start, end) in enumerate(offsets)}
        yield Case(f"those without bytes share a start: {offsets}", partial(_placed, offsets, 8), Reads(content))
    yield Case(
        "one without bytes within another", partial(_placed, [(0, 8), (4, 4)], 8), Refused(Code.SAFETENSORS_OVERLAP)
    )


def bad_offsets() -> Iterator[Case]:
    values: tuple[object, ...] = (
        *([24, 0], [1, 0], [72, 0], [2**63, 0], [], [0], [0, 24, 48], None, 24, "0,24", ["0", "24"], [0.0, 24.0]),
        *([True, 24], [None, 24], {"start": 0, "end": 24}, [[0, 24]], [0, 24.0], [0, 1e300]),
    )
    yield from refused(Code.SAFETENSORS_OFFSETS, _each_place(values, "data_offsets"))
    outside = ([-24, 0], [-1, 23], [72, 96], [49, 73], [0, 2**63], [0, 2**64], [2**64 - 24, 2**64], [0, 10**40])
    yield from refused(Code.SAFETENSORS_RANGE, _each_place(outside, "data_offsets"))


def truncated() -> Iterator[Case]:
    whole = _among(0)
    start = len(whole) - len(DATA)
    for size in range(start, len(whole)):
        yield Case(
            f"{len(whole) - size} bytes of data missing",
            partial(whole.__getitem__, slice(size)),
            Refused(Code.SAFETENSORS_RANGE),
        )
    for size in range(9, start, 5):
        yield Case(
            f"only {size} bytes, of a header of {start - 8}",
            partial(whole.__getitem__, slice(size)),
            Refused(Code.SAFETENSORS_LENGTH),
        )


def trailing() -> Iterator[Case]:
    whole = _among(0)
    junk = {f"{count} zero bytes": bytes(count) for count in (1, 2, 7, 8, 63, 512, 4096, 1 << 20)}
    junk |= {
        "a newline": b"\n",
        "another file": whole,
        "a zip": seeds.ZIPS["torch"],
        "text": b"-----END-----",
        "FF": b"\xff",
    }
    yield from refused(
        Code.SAFETENSORS_TRAILING,
        ((f"{label} behind the data", partial(bytes.__add__, whole, more)) for label, more in junk.items()),
    )
    yield from refused(Code.SAFETENSORS_TRAILING, {"data without tensors": partial(safetensors, {}, b"abc")})


def sizes() -> Iterator[Case]:
    for code, name in CODES.items():
        bits = DTYPES[name].bits
        shape = (2, 4)
        nbytes = bits * prod(shape) // 8
        content = DATA[:nbytes]
        good = {"w": {"dtype": code, "shape": shape, "data_offsets": [0, nbytes]}}
        yield Case(f"{code}, as large as its shape", partial(safetensors, good, content), Reads({"w": content}))
        for wrong in ([2, 3], [2, 5], [9], [1], []):
            header = {"w": {"dtype": code, "shape": wrong, "data_offsets": [0, nbytes]}}
            label = f"{code} of shape {wrong} in {nbytes} bytes"
            yield Case(label, partial(safetensors, header, content), Refused(Code.SAFETENSORS_SIZE))
    for code, shape in (("F4", [1]), ("F4", [3]), ("F4", [3, 3]), ("F6_E2M3", [1]), ("F6_E3M2", [2]), ("F6_E2M3", [3])):
        bits = DTYPES[CODES[code]].bits * prod(shape)
        for nbytes in {bits // 8, -(-bits // 8)}:
            header = {"w": {"dtype": code, "shape": shape, "data_offsets": [0, nbytes]}}
            label = f"{bits} bits ({code} of shape {shape}) in {nbytes} bytes"
            yield Case(label, partial(safetensors, header, DATA[:nbytes]), Refused(Code.SAFETENSORS_SIZE))


TRUSTED: dict[int, str] = {}
MAKERS: Makers = {
    1: empty, 2: short, 3: length_past_the_file, 4: claims_a_gigabyte, 5: length_of_64_bits, 6: header_of_100_mb,
    7: a_hundred_thousand_tensors, 8: a_million_tensors, 9: not_utf8, 10: byte_order_marks, 11: not_json,
    12: other_roots, 13: nesting, 14: junk_behind_the_header, 15: duplicate_names, 16: duplicate_fields,
    17: duplicate_metadata, 18: metadata_types, 19: missing_fields, 20: unknown_fields, 21: unknown_dtypes,
    22: bad_shapes, 23: overflows, 24: ranks, 25: holes, 26: overlaps, 27: bad_offsets, 28: truncated, 29: trailing,
    30: sizes,
}  # fmt: skip
