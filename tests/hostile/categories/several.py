"""Categories 93 to 104: checkpoints of several files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from qkvinspect.error_codes import Code
from tests.hostile import seeds
from tests.hostile.categories.case import Case, Makers, Reads, Refused
from tests.hostile.memory import MemoryFile
from tests.hostile.writers import dcp, pickles
from tests.hostile.writers.headers import described, pairs, safetensors
from tests.hostile.writers.pickles import call, mapping, name, named, number, text

INDEX = "model.safetensors.index.json"
ONE = safetensors(*described({"a": ("F32", (4, 4), seeds.FLOATS)}))
TWO = safetensors(*described({"b": ("I64", (4,), seeds.LONGS)}))
SHARDS = {"one.safetensors": ONE, "two.safetensors": TWO}
MAP = {"a": "one.safetensors", "b": "two.safetensors"}
SOUND = Reads({"a": seeds.FLOATS, "b": seeds.LONGS})


def _index(index: object, shards: Mapping[str, bytes] = SHARDS) -> MemoryFile:
    data = index if isinstance(index, bytes) else json.dumps(index).encode()
    return MemoryFile(data, INDEX, {INDEX: data, **shards})


def _mapped(weight_map: Mapping[str, object], shards: Mapping[str, bytes] = SHARDS) -> MemoryFile:
    return _index({"weight_map": weight_map}, shards)


def bad_json() -> Iterator[Case]:
    good = json.dumps({"weight_map": MAP}).encode()
    yield Case("a sound index", partial(_index, good), SOUND)
    for size in range(1, len(good), 3):
        yield Case(f"an index that stops at byte {size}", partial(_index, good[:size]), Refused(Code.INDEX_JSON))
    for more in (b"x", b"\0", b"{}", b"\xff", b",", b"]"):
        yield Case(f"{more!r} behind the index", partial(_index, good + more), Refused(Code.INDEX_JSON))
    for raw in (b"\xff", b"\xed\xa0\x80", b"\xc0\x80"):
        yield Case(
            f"{raw!r} in a name", partial(_index, good.replace(b'"a"', b'"' + raw + b'"')), Refused(Code.INDEX_JSON)
        )
    for root in (
        b"{}",
        b'{"weight_map":[]}',
        b'{"weight_map":{}}',
        b'{"weight_map":null}',
        b'{"weight_map":"x"}',
        b'{"weight_map":1}',
        b'{"Weight_map":{"a":"b"}}',
        b'{"metadata":{}}',
    ):
        yield Case(f"the index {root!r}", partial(_index, root), Refused(Code.INDEX_MAP))
    for file in (None, 1, 1.5, True, [], ["one.safetensors"], {}, {"file": "one.safetensors"}):
        yield Case(f"a tensor in the file {file!r}", partial(_mapped, {**MAP, "b": file}), Refused(Code.INDEX_FILE))
    for index in (
        b'{"weight_map":{"a":NaN}}',
        b'{"weight_map":{"a":Infinity}}',
        b"{'weight_map':{}}",
        b'{"weight_map":{"a":"b",}}',
    ):
        yield Case(f"the index {index!r}", partial(_index, index), Refused(Code.INDEX_JSON))
    deep = b'{"weight_map":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield Case("100,000 lists in each other", partial(_index, deep), Refused(Code.INDEX_JSON))
    yield Case(
        "1,000,000 lists",
        partial(_index, b'{"weight_map":[' + b"[]," * 1_000_000 + b"1]}"),
        Refused(Code.LIMIT_OBJECTS),
    )
    many = {f"t{n}": f"f{n}" for n in range(20_001)}
    yield Case("20,001 files", partial(_mapped, many), Refused(Code.LIMIT_SHARDS))


def duplicate_keys() -> Iterator[Case]:
    for again in ("one.safetensors", "two.safetensors", "three.safetensors"):
        text = b'{"weight_map":' + pairs([*MAP.items(), ("a", again)]) + b"}"
        yield Case(f"a tensor twice, then in {again}", partial(_index, text), Refused(Code.INDEX_DUPLICATE))
    whole_map = json.dumps(MAP).encode()
    yield Case(
        "two maps",
        partial(_index, b'{"weight_map":' + whole_map + b',"weight_map":' + whole_map + b"}"),
        Refused(Code.INDEX_DUPLICATE),
    )
    yield Case(
        "two metadata",
        partial(_index, b'{"metadata":{},"metadata":{},"weight_map":' + whole_map + b"}"),
        Refused(Code.INDEX_DUPLICATE),
    )
    escaped = b'{"weight_map":' + pairs([*MAP.items(), ("a", "x")]).replace(b'"a":"x"', rb'"\u0061":"x"') + b"}"
    yield Case("a tensor twice, once escaped", partial(_index, escaped), Refused(Code.INDEX_DUPLICATE))


def _escapes(names: Sequence[str]) -> Iterator[Case]:
    for file in names:
        yield Case(f"a tensor in the file {file!r}", partial(_mapped, {**MAP, "b": file}), Refused(Code.FILE_ESCAPE))


def parent_folders() -> Iterator[Case]:
    yield from _escapes(
        (
            "../two.safetensors",
            "..",
            "a/../two.safetensors",
            "a/../../x",
            "./../x",
            "x/..",
            "../",
            "..\\x",
            "a\\..\\x",
            "sub/../one.safetensors",
        )
    )


def absolute() -> Iterator[Case]:
    yield from _escapes(("/etc/passwd", "/", "//host/x", "\\\\host\\x", "C:\\x", "/one.safetensors", "", "a\0b", "\0"))


def missing_shards() -> Iterator[Case]:
    for file in MAP.values():
        rest = {other: data for other, data in SHARDS.items() if other != file}
        yield Case(f"no {file}", partial(_mapped, MAP, rest), Refused(Code.FILE_MISSING))
    for file in (
        "three.safetensors",
        "one",
        "One.safetensors",
        "one.safetensors ",
        "sub/one.safetensors",
        "~/x",
        "file:x",
        "%2e%2e/x",
        "$HOME",
        "*",
    ):
        yield Case(f"a tensor in {file!r}", partial(_mapped, {**MAP, "b": file}), Refused(Code.FILE_MISSING))
    for cut in (8, 50, len(TWO) - 1):
        code = Code.NOT_A_CHECKPOINT if cut == 8 else Code.SAFETENSORS_LENGTH if cut == 50 else Code.SAFETENSORS_RANGE
        yield Case(
            f"a shard of only {cut} bytes",
            partial(_mapped, MAP, {**SHARDS, "two.safetensors": TWO[:cut]}),
            Refused(code),
        )
    for label, data, code in (
        ("empty", b"", Code.FILE_EMPTY),
        ("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\n", Code.IS_LFS_POINTER),
        ("a web page", b"<!DOCTYPE html><html>", Code.IS_WEB_PAGE),
        ("an index", json.dumps({"weight_map": MAP}).encode(), Code.NOT_A_CHECKPOINT),
    ):
        yield Case(
            f"a shard that is {label}", partial(_mapped, MAP, {**SHARDS, "two.safetensors": data}), Refused(code)
        )


def absent_tensors() -> Iterator[Case]:
    for called in ("c", "A", "a ", "", "a.weight", "\x1b[31m", "b\n"):
        yield Case(
            f"a tensor {called!r} that its shard has not",
            partial(_mapped, {**MAP, called: "one.safetensors"}),
            Refused(Code.INDEX_TENSOR),
        )
    yield Case(
        "the two tensors in each other's shards",
        partial(_mapped, {"a": "two.safetensors", "b": "one.safetensors"}),
        Refused(Code.INDEX_TENSOR),
    )
    yield Case(
        "a shard without tensors",
        partial(_mapped, MAP, {**SHARDS, "two.safetensors": safetensors({})}),
        Refused(Code.INDEX_TENSOR),
    )


def twice() -> Iterator[Case]:
    other = safetensors(*described({"a": ("F32", (4, 4), bytes(64)), "b": ("I64", (4,), seeds.LONGS)}))
    refused = Refused(Code.INDEX_TWICE)
    yield Case(
        "a tensor in both shards; the index says which",
        partial(_mapped, MAP, {**SHARDS, "two.safetensors": other}),
        refused,
    )
    both = safetensors(*described({"b": ("I64", (4,), bytes(32)), "a": ("F32", (4, 4), seeds.FLOATS)}))
    yield Case("the other way round", partial(_mapped, MAP, {**SHARDS, "one.safetensors": both}), refused)


HELD = {"weight": seeds.FLOATS, "index": seeds.LONGS}
FOLDER = seeds.DCP["two ranks"]
TENSORS = seeds.DCP_TENSORS
WEIGHT, NUMBERS = TENSORS["model.weight"], TENSORS["model.index"]
FIRST, SECOND = WEIGHT.chunks


def _dcp(metadata: bytes, files: Mapping[str, bytes] | None = None) -> MemoryFile:
    folder = {**FOLDER, ".metadata": metadata, **(files or {})}
    return MemoryFile(metadata, ".metadata", folder)


def _weight(*chunks: dcp.Chunk, size: Sequence[int] = (4, 4)) -> MemoryFile:
    return _dcp(dcp.metadata({**TENSORS, "model.weight": replace(WEIGHT, chunks=chunks, size=size)}))


def dcp_escapes() -> Iterator[Case]:
    for file in ("../x", "/etc/passwd", "a/../../x", "..", "", "a\\..\\x", "x\0y", "./../x"):
        yield Case(
            f"a chunk in the file {file!r}",
            partial(_weight, FIRST, replace(SECOND, file=file)),
            Refused(Code.FILE_ESCAPE),
        )
    for file in ("__9_0.distcp", "~/x", "__0_0.DISTCP"):
        yield Case(
            f"a chunk in the file {file!r}",
            partial(_weight, FIRST, replace(SECOND, file=file)),
            Refused(Code.FILE_MISSING),
        )


def dcp_ranges() -> Iterator[Case]:
    end = len(FOLDER["__1_0.distcp"])
    for start, length in (
        (0, end + 1),
        (1, end),
        (end, 1),
        (-1, end),
        (0, -1),
        (2**62, 2**62),
        (0, 2**63),
        (2**64, 1),
        (end + 1, 0),
    ):
        chunk = replace(SECOND, start=start, length=length)
        yield Case(
            f"a chunk of {length} bytes at {start} of {end}", partial(_weight, FIRST, chunk), Refused(Code.DCP_RANGE)
        )
    for cut in (1, end // 2, end - 1, end):
        files = {"__1_0.distcp": FOLDER["__1_0.distcp"][:-cut]}
        yield Case(
            f"{cut} bytes of a rank's file missing", partial(_dcp, FOLDER[".metadata"], files), Refused(Code.DCP_RANGE)
        )
    for start, length, code in (
        (0, 0, Code.DCP_CHUNK),
        (1, end - 1, Code.DCP_CHUNK),
        (0, end - 1, Code.ZIP_NO_END),
        (0, 10, Code.ZIP_NO_END),
    ):
        chunk = replace(SECOND, start=start, length=length)
        yield Case(
            f"a chunk of {length} bytes at {start}, not the whole zip", partial(_weight, FIRST, chunk), Refused(code)
        )
    other = dcp.zipped(seeds.LONGS, (4,), "int64")
    larger = dcp.zipped(seeds.FLOATS, (4, 4))
    for label, data in (("of another dtype", other), ("of another shape", larger)):
        chunk = replace(SECOND, length=len(data))
        tensors = {**TENSORS, "model.weight": replace(WEIGHT, chunks=[FIRST, chunk])}
        yield Case(
            f"a chunk {label}", partial(_dcp, dcp.metadata(tensors), {"__1_0.distcp": data}), Refused(Code.DCP_CHUNK)
        )


def dcp_cover() -> Iterator[Case]:
    yield Case("a sound folder", partial(_dcp, FOLDER[".metadata"]), Reads(HELD))
    yield Case("chunks in the other order", partial(_weight, SECOND, FIRST), Reads(HELD))
    for at in ((1, 0), (0, 0), (1, 1)):
        code = Code.CHUNK_OUTSIDE if at == (1, 1) else Code.CHUNK_OVERLAP if at != (0, 0) else Code.DCP_PLACE
        yield Case(f"the second chunk at {at}", partial(_weight, FIRST, replace(SECOND, at=at)), Refused(code))
    for at in ((3, 0), (2, 1), (4, 0), (2**62, 0)):
        yield Case(
            f"the second chunk at {at}, outside",
            partial(_weight, FIRST, replace(SECOND, at=at)),
            Refused(Code.CHUNK_OUTSIDE),
        )
    yield Case("the second chunk missing", partial(_weight, FIRST), Refused(Code.CHUNK_GAP))
    yield Case("the first chunk missing", partial(_weight, SECOND), Refused(Code.CHUNK_GAP))
    yield Case("no chunk", partial(_weight), Refused(Code.CHUNK_GAP))
    for size in ((5, 4), (8, 4), (4, 5), (100, 100)):
        yield Case(
            f"a tensor that is said to be {size}", partial(_weight, FIRST, SECOND, size=size), Refused(Code.CHUNK_GAP)
        )
    for size in ((3, 4), (2, 4), (4, 3), (16,), (4, 4, 1)):
        yield Case(
            f"a tensor that is said to be {size}",
            partial(_weight, FIRST, SECOND, size=size),
            Refused(Code.CHUNK_OUTSIDE),
        )
    for sizes in ((1, 4), (2, 3), (2, 0)):
        yield Case(
            f"a second chunk that is said to be {sizes}",
            partial(_weight, FIRST, replace(SECOND, listed_size=sizes)),
            Refused(Code.CHUNK_GAP),
        )


def hostile_metadata() -> Iterator[Case]:
    good = FOLDER[".metadata"]
    for label, data in (("one byte missing", good[:-1]), ("half of it", good[: len(good) // 2])):
        yield Case(f"metadata with {label}", partial(_dcp, data), Refused(Code.PICKLE_TRUNCATED))
    yield Case("a byte behind the metadata", partial(_dcp, good + b"x"), Refused(Code.PICKLE_TRAILING))
    evil = call(name("os", "system"), text("touch /tmp/x"))
    for field in ("state_dict_metadata", "planner_data", "storage_data", "storage_meta", "version"):
        reads = Reads(HELD) if field in ("storage_meta", "version") else Refused(Code.DCP_METADATA)
        if isinstance(reads, Reads):
            reads = replace(reads, findings=("dangerous-global",))
        yield Case(f"os.system for {field}", partial(_dcp, dcp.metadata(TENSORS, **{field: evil})), reads)
    for field in ("state_dict_metadata", "storage_data"):
        for label, value in {
            "None": b"N",
            "a list": b"]",
            "a number": number(1),
            "text": text("x"),
            "a tuple": b")",
        }.items():
            yield Case(
                f"{label} for {field}",
                partial(_dcp, dcp.metadata(TENSORS, **{field: value})),
                Refused(Code.DCP_METADATA),
            )
    yield Case(
        "no place for any chunk",
        partial(_dcp, dcp.metadata(TENSORS, storage_data=pickles.mapping({}))),
        Refused(Code.DCP_PLACE),
    )
    yield Case(
        "entries that are numbers",
        partial(_dcp, dcp.metadata(TENSORS, state_dict_metadata=named({"w": number(1)}))),
        Refused(Code.DCP_METADATA),
    )
    yield Case(
        "keys that are numbers",
        partial(_dcp, dcp.metadata(TENSORS, state_dict_metadata=mapping([(number(1), b"N")]))),
        Refused(Code.DCP_METADATA),
    )
    for dtype in ("floatxx", "system", "Tensor"):
        tensors = {**TENSORS, "model.weight": replace(WEIGHT, dtype=dtype)}
        yield Case(f"a dtype torch.{dtype}", partial(_dcp, dcp.metadata(tensors)), Refused(Code.TENSOR_DTYPE))
    for size in ((-4, 4), (2**63, 4), (4, -1)):
        yield Case(f"a tensor of size {size}", partial(_weight, FIRST, SECOND, size=size), Refused(Code.TENSOR_SHAPE))
    yield Case(
        "a metadata of lists in lists",
        partial(_dcp, dcp.metadata(TENSORS, storage_meta=b"]" * 200_000)),
        Refused(Code.LIMIT_STACK),
    )


TRUSTED: dict[int, str] = {}
MAKERS: Makers = {
    93: bad_json,
    94: duplicate_keys,
    95: parent_folders,
    96: absolute,
    98: missing_shards,
    99: absent_tensors,
    100: twice,
    101: dcp_escapes,
    102: dcp_ranges,
    103: dcp_cover,
    104: hostile_metadata,
}
