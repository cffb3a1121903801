"""GGUF files that lie: each is refused under its code, and no mutation of one leads anywhere else."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qkvinspect import formats
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from tests.batches import batches, each
from tests.hostile.bounds import bounded_memory, no_hang
from tests.hostile.memory import MemoryFile
from tests.hostile.reading import content
from tests.hostile.writers.ggufs import (
    ARRAY,
    F16,
    F32,
    Q4_0,
    STRING,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    Entry,
    Value,
    Writer,
)
from tests.some import first

DATA = bytes(range(96))
ENTRIES = (Entry(b"a", (4, 2), F32, 0), Entry(b"b", (8,), F32, 32), Entry(b"c", (16, 1), F16, 64))
HUGE = (1 << 31, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
Case = tuple[str, bytes, tuple[Code, ...]]


def sound(writer: Writer, alignment: int | None = None) -> bytes:
    values = [(b"general.architecture", writer.string(b"llama")), (b"n", writer.scalar(UINT32, 3))]
    values += [(b"list", writer.array(UINT16, [writer.pack("H", n) for n in range(3)]))]
    values += [(b"words", writer.array(STRING, [writer.text(b"w"), writer.text(b"")]))]
    return writer.file(writer.header(values, ENTRIES), DATA)


def among(writer: Writer, place: int, entry: Entry) -> bytes:
    entries = [entry if at == place else other for at, other in enumerate(ENTRIES)]
    return writer.file(writer.header([], entries), DATA)


def with_value(writer: Writer, value: Value, key: bytes = b"x") -> bytes:
    return writer.file(writer.header([(b"before", writer.scalar(UINT8, 1)), (key, value)], ENTRIES), DATA)


def versions(w: Writer) -> Iterator[Case]:
    for version in (0, 1, 4, 5, 255, 1 << 8, 1 << 16, (1 << 32) - 1):
        yield f"version {version}", w.file(w.header([], ENTRIES, version=version), DATA), (Code.GGUF_VERSION,)


def truncations(w: Writer) -> Iterator[Case]:
    whole = sound(w)
    for length in range(4, 8):
        yield f"the first {length} bytes", whole[:length], (Code.GGUF_VERSION,)
    for length in range(8, len(whole) - len(DATA) - 32):
        yield f"the first {length} bytes", whole[:length], (Code.GGUF_TRUNCATED,)
    for less in (1, 31, 32, 64, 96):
        yield f"{less} bytes fewer", whole[:-less], (Code.GGUF_RANGE,)


def counts(w: Writer) -> Iterator[Case]:
    for count in HUGE:
        keys = w.file(w.header([], ENTRIES, num_values=count), DATA)
        yield f"{count} keys", keys, (Code.LIMIT_OBJECTS,)
        yield f"{count} tensors", w.file(w.header([], ENTRIES, num_tensors=count), DATA), (Code.LIMIT_TENSORS,)
        for kind in (UINT8, STRING):
            yield f"{count} items of type {kind}", with_value(w, w.array(kind, [], count)), (Code.GGUF_TRUNCATED,)
        yield f"{count} arrays", with_value(w, w.array(ARRAY, [], count)), (Code.LIMIT_OBJECTS,)
        text = Value(STRING, w.text(b"x", count))
        yield f"a text of {count} bytes", with_value(w, text), (Code.GGUF_TRUNCATED,)
        items = w.array(STRING, [w.text(b"x", count)])
        yield f"a word of {count} bytes", with_value(w, items), (Code.GGUF_TRUNCATED,)
        key = w.header([], [], num_values=1) + w.text(b"k", count)
        yield f"a key of {count} bytes", key, (Code.GGUF_TEXT,)
    zeros_as_an_entry = w.file(w.header([], ENTRIES, num_tensors=4), DATA)  # which makes the data begin later
    yield "4 tensors of 3", zeros_as_an_entry, (Code.GGUF_RANGE,)
    for count in (5, 100):
        yield f"{count} tensors of 3", w.file(w.header([], ENTRIES, num_tensors=count), DATA), (Code.GGUF_TEXT,)


def values(w: Writer) -> Iterator[Case]:
    for kind in (13, 14, 255, 1 << 31, (1 << 32) - 1):
        yield f"a value of type {kind}", with_value(w, Value(kind, bytes(8))), (Code.GGUF_VALUE,)
        yield f"items of type {kind}", with_value(w, w.array(kind, [bytes(8)])), (Code.GGUF_VALUE,)
        yield f"many items of type {kind}", with_value(w, w.array(kind, [], 1 << 40)), (Code.GGUF_VALUE,)
    nested = w.array(UINT8, [b"\0"])
    for depth in (40, 1000, 100_000):
        content = w.pack("IQ", ARRAY, 1) * depth + nested.content
        yield f"{depth} arrays in each other", with_value(w, Value(ARRAY, content)), (Code.LIMIT_DEPTH,)
    yield "a key twice", with_value(w, w.scalar(UINT8, 1), b"before"), (Code.GGUF_DUPLICATE,)
    for key in (b"\xff", b"\xc3", b"\xed\xa0\x80"):
        yield f"the key {key!r}", with_value(w, w.scalar(UINT8, 1), key), (Code.GGUF_TEXT,)


def alignments(w: Writer) -> Iterator[Case]:
    key = b"general.alignment"
    for value in (0, 3, 33, 48, (1 << 32) - 1, 1 << 31):
        yield f"alignment {value}", with_value(w, w.scalar(UINT32, value), key), (Code.GGUF_ALIGNMENT,)
    for kind in (UINT8, UINT16, UINT64):
        yield f"alignment of type {kind}", with_value(w, w.scalar(kind, 32), key), (Code.GGUF_ALIGNMENT,)
    yield "alignment as text", with_value(w, w.string(b"32"), key), (Code.GGUF_ALIGNMENT,)
    for value in (64, 4096):
        wrong = (Code.GGUF_OVERLAP, Code.GGUF_RANGE)
        yield f"alignment {value}, not kept", with_value(w, w.scalar(UINT32, value), key), wrong


def tensors(w: Writer) -> Iterator[Case]:
    for place, entry in enumerate(ENTRIES):
        name = entry.name.decode()
        for rank in (5, 8, 1000):
            yield f"{rank} sizes of {name}", among(w, place, Entry(entry.name, (1,) * rank, 0, 0)), (Code.GGUF_SHAPE,)
        for size in HUGE:
            shaped = Entry(entry.name, (size, 2), F32, entry.offset)
            yield f"a size {size} of {name}", among(w, place, shaped), (Code.GGUF_SHAPE, Code.GGUF_RANGE)
            zero = Entry(entry.name, (size, 0), F32, entry.offset)
            both = (Code.GGUF_SHAPE, Code.GGUF_HOLE) if place < 2 else (Code.GGUF_SHAPE,)
            if size >= 1 << 63 or place < 2:
                yield f"sizes {size} and 0 of {name}", among(w, place, zero), both
            far = Entry(entry.name, entry.sizes, entry.kind, size)
            yield f"offset {size} of {name}", among(w, place, far), (Code.GGUF_RANGE,)
        for kind in (4, 5, 31, 33, 36, 38, 42, 255, (1 << 32) - 1):
            typed = Entry(entry.name, entry.sizes, kind, entry.offset)
            yield f"type {kind} of {name}", among(w, place, typed), (Code.GGUF_TYPE,)
        for size in (1, 16, 31, 33):
            block = Entry(entry.name, (size,), Q4_0, entry.offset)
            yield f"a row of {size} in Q4_0 as {name}", among(w, place, block), (Code.GGUF_SHAPE,)
        for offset in sorted({0, 1, 16, 31, 32, 33, 48, 63, 64} - {entry.offset}):
            moved = Entry(entry.name, entry.sizes, entry.kind, offset)
            yield f"offset {offset} of {name}", among(w, place, moved), (Code.GGUF_OVERLAP, Code.GGUF_HOLE)
        for other in ENTRIES[:place]:
            twice = Entry(other.name, entry.sizes, entry.kind, entry.offset)
            yield f"{other.name!r} twice, as {name}", among(w, place, twice), (Code.GGUF_DUPLICATE,)
        bad = Entry(b"\xff\xfe", entry.sizes, entry.kind, entry.offset)
        yield f"a name of {name} that is no text", among(w, place, bad), (Code.GGUF_TEXT,)


def cases() -> Iterator[Case]:
    for order, writer in (("little", Writer("<")), ("big", Writer(">"))):
        for make in (versions, truncations, counts, values, alignments, tensors):
            for label, data, codes in make(writer):
                yield f"{order}: {label}", data, codes


CASES = list({label: (label, data, codes) for label, data, codes in cases()}.values())


def read(data: bytes) -> int:
    with formats._open(MemoryFile(data), None, {}) as checkpoint:
        return sum(len(content(info) or b"") for info in checkpoint.tensors.values())


def test_there_are_five_hundred() -> None:
    assert len(CASES) >= 500


@pytest.mark.parametrize("sign", "<>")
def test_the_file_that_they_are_made_of_is_sound(sign: str) -> None:
    assert read(sound(Writer(sign))) == len(DATA)


@pytest.mark.parametrize("cases", batches(CASES), ids=lambda cases: cases[0][0])
def test_each_is_refused_under_its_code(cases: Sequence[tuple[str, bytes, tuple[Code, ...]]]) -> None:
    each(cases, _is_refused)


def _is_refused(data: bytes, codes: tuple[Code, ...]) -> None:
    with no_hang() as within, bounded_memory(64 << 20), pytest.raises(CheckpointError) as caught:
        within(partial(read, data))
    assert caught.value.code in codes
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", first(2, range(8)))
def test_mutations_are_read_or_refused(seed: int) -> None:
    rng, refusals = random.Random(seed), set[Code | None]()
    whole = sound(Writer("<>"[seed % 2]))
    with no_hang() as within, bounded_memory(64 << 20):
        for _ in range(2500):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(4, len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            try:
                within(partial(read, bytes(data[: rng.choice((len(data), rng.randrange(len(data)))) or 1])))
            except CheckpointError as error:
                refusals.add(error.code)
    assert len(refusals) > 5


@pytest.mark.parametrize("command", ["show", "check", "analyze", "diff"])
def test_endless_rows_without_columns_are_left_out(command: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    """They take no bytes, so that a file may well say so; found by mutations."""
    writer = Writer()
    entries = [Entry(f"blk.0.attn_{part}.weight".encode(), (0, 1 << 60), F32, 0) for part in "qkv"]
    path = tmp_path / "m.gguf"
    path.write_bytes(writer.file(writer.header([], entries), b""))
    with no_hang() as within:
        found = within(run, command, *[path] * (2 if command == "diff" else 1))
    assert found.code in (0, 1)
    assert "unexpected" not in found.err
    assert "has no elements, and more rows than any tensor" in found.out + found.err or command == "analyze"
