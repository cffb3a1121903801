"""ONNX files that lie: each is refused under its code, and no mutation of one leads anywhere else."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from qkvinspect import formats
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.inspection import inspect
from tests.batches import batches, each
from tests.counted import counted
from tests.hostile.bounds import bounded_memory, no_hang
from tests.hostile.memory import MemoryFile
from tests.hostile.reading import content
from tests.hostile.writers.onnxes import Value, entry, field, message, model, node, number, tensor
from tests.some import first

RAW = bytes(range(64))
HUGE = (1 << 31, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
WEIGHT = tensor(b"onnx::MatMul_7", (4, 4), 1, RAW)
BIAS = tensor(b"a.q.bias", (4,), 1, RAW[:16])
SHAPE = message((1, b"value"), (5, tensor(b"", (3,), 7, bytes(24))))
NODES = (
    node(b"MatMul", (b"x", b"onnx::MatMul_7"), (b"y",), (3, b"/a/q/MatMul")),
    node(b"Add", (b"y", b"a.q.bias"), (b"z",), (3, b"/a/q/Add"), (9, entry(b"namespace", b": M/a: A/a.q: B/add: op"))),
    node(b"Constant", (), (b"s",), (5, SHAPE)),
    node(b"Reshape", (b"z", b"s"), (b"heads",)),
    node(b"Attention", (b"heads", b"", b""), (b"o",), (5, message((1, b"num_heads"), (3, 2))), (7, b"com.microsoft")),
)
Case = tuple[str, bytes, tuple[Code, ...]]
FOLDER = {"weights.bin": bytes(64)}


def graph(*tensors: bytes) -> bytes:
    return message(*((1, one) for one in NODES), *((5, one) for one in tensors or (WEIGHT, BIAS)))


SOUND = model(graph(), (14, entry(b"author", b"nobody")))


def truncations() -> Iterator[Case]:
    whole = model(graph())
    for length in range(5, len(whole)):
        yield f"the first {length} bytes", whole[:length], (Code.ONNX_TRUNCATED, Code.ONNX_GRAPH, Code.ONNX_WIRE)


def wires() -> Iterator[Case]:
    for kind in (3, 4, 6, 7):
        for place in (1, 7, 100, 5000):
            yield f"kind {kind} of field {place}", SOUND + number(place << 3 | kind), (Code.ONNX_WIRE,)
            inner = model(graph() + number(place << 3 | kind))
            yield f"kind {kind} of field {place} in the graph", inner, (Code.ONNX_WIRE,)
    for tag in (0, 2, 5, 1 << 32, 1 << 40, (1 << 64) - 1):
        yield f"the tag {tag}", SOUND + number(tag) + bytes(9), (Code.ONNX_WIRE,)
    for length in (10, 11, 20, 1000):
        yield f"a number of {length} bytes", SOUND + b"\x08" + b"\x80" * length + b"\1", (Code.ONNX_WIRE,)
    for size in HUGE:
        for place in (2, 7, 14, 99):
            longer = SOUND + number(place << 3 | 2) + number(size)
            yield f"field {place} of {size} bytes", longer, (Code.ONNX_TRUNCATED,)
            inner = model(graph() + number(place << 3 | 2) + number(size))
            yield f"field {place} of {size} bytes in the graph", inner, (Code.ONNX_TRUNCATED,)
    for place in (1, 5):
        yield f"a number as field {place} of the graph", model(graph() + field(place, 5)), (Code.ONNX_WIRE,)
    yield "a number as the graph", message((1, 8), (2, b"x"), (7, 9)), (Code.ONNX_WIRE,)
    yield "no graph", message((1, 8), (2, b"x")), (Code.ONNX_GRAPH,)
    yield "two graphs", SOUND + message((7, graph())), (Code.ONNX_DUPLICATE,)
    for place in (1, 2, 3, 4, 7):
        bad = model(message((1, message((place, b"\xff"))), (5, WEIGHT)))
        yield f"field {place} of a node that is no text", bad, (Code.ONNX_TEXT,)
        numeric = model(message((1, message((place, 7))), (5, WEIGHT)))
        yield f"field {place} of a node that is a number", numeric, (Code.ONNX_TEXT,)
        longest = model(message((1, message((place, b"x" * 65_536))), (5, WEIGHT)))
        yield f"field {place} of a node that is too long", longest, (Code.ONNX_TEXT,)


def depths() -> Iterator[Case]:
    for depth in (40, 200, 2000):
        inner = graph()
        for _ in range(depth):
            inner = message((1, message((4, b"If"), (5, message((1, b"then_branch"), (6, inner))))))
        yield f"{depth} branches in each other", model(inner), (Code.LIMIT_DEPTH,)
    many = message(*((5, tensor(b"%d" % n, (0,), 1, b"")) for n in range(20_001)))
    yield "very many tensors", model(many), (Code.LIMIT_TENSORS,)


def tensors() -> Iterator[Case]:
    def among(one: bytes) -> bytes:
        return model(graph(one, BIAS))

    for kind in (0, 29, 30, 99, 255, *HUGE):
        yield f"type {kind}", among(tensor(b"w", (4, 4), kind, RAW)), (Code.ONNX_TYPE,)
    for size in HUGE:
        codes = (Code.ONNX_SHAPE, Code.ONNX_RANGE)
        yield f"a size {size}", among(tensor(b"w", (size, 4), 1, RAW)), codes
        yield f"a size {size} alone", among(tensor(b"w", (size,), 1, None)), codes
        yield f"a size {size} as varints", among(tensor(b"w", (size,), 7, None, (7, bytes(8)))), codes
        yield f"a size {size} as floats", among(tensor(b"w", (size,), 1, None, (4, bytes(8)))), codes
        for location in ((13, entry(b"location", b"weights.bin")),):
            there = tensor(b"w", (size,), 1, None, location, (14, 1))
            yield f"a size {size} in another file", among(there), codes
    for rank in (65, 100, 1000):
        yield f"{rank} sizes", among(tensor(b"w", (1,) * rank, 1, RAW[:4])), (Code.ONNX_SHAPE,)
        packed = message((1, number(1) * rank), (2, 1), (8, b"w"), (9, RAW[:4]))
        yield f"{rank} sizes, packed", among(packed), (Code.ONNX_SHAPE,)
    for length in (0, 1, 4, 60, 63):
        yield f"{length} bytes of 64", among(tensor(b"w", (4, 4), 1, RAW[:length])), (Code.ONNX_RANGE,)
    for place in (4, 5, 7, 9, 10, 11):
        for other in (4, 9, 11):
            twice = tensor(b"w", (4, 4), 1, None, (place, RAW), (other, RAW))
            yield f"numbers in {place} and {other}", among(twice), (Code.ONNX_DUPLICATE,)
        if place not in (4, 9):
            misplaced = tensor(b"w", (4, 4), 1, None, (place, RAW))
            codes = (Code.ONNX_RANGE,)
            if place != 10:  # sixteen varints of one byte each stand for sixteen numbers
                continue
            yield f"floats in field {place}", among(misplaced), codes
    for count in (1, 15, 17, 64):
        short = tensor(b"w", (4, 4), 7, None, (7, b"\1" * count))
        yield f"{count} varints for 16 numbers", among(short), (Code.ONNX_RANGE,)
    yield "a varint without an end", among(tensor(b"w", (2,), 7, None, (7, b"\1\x80"))), (Code.ONNX_TRUNCATED,)
    for name in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"x" * 65_536):
        yield f"the name {name[:4]!r}", among(tensor(name, (4, 4), 1, RAW)), (Code.ONNX_TEXT,)
    for name in (b"a.q.bias", b""):
        again = model(graph(tensor(name, (4, 4), 1, RAW), tensor(name, (4,), 1, RAW[:16])))
        yield f"the name {name!r} twice", again, (Code.ONNX_DUPLICATE,)


def outside() -> Iterator[Case]:
    def there(*pairs: tuple[bytes, bytes], more: tuple[tuple[int, Value], ...] = ()) -> bytes:
        entries = [(13, entry(*pair)) for pair in pairs]
        return model(graph(tensor(b"w", (4, 4), 1, None, *entries, (14, 1), *more), BIAS))

    place = (b"location", b"weights.bin")
    yield "no location", there((b"offset", b"0")), (Code.ONNX_EXTERNAL,)
    yield "numbers of its own too", there(place, more=((9, RAW),)), (Code.ONNX_EXTERNAL,)
    for path in (b"../x", b"/etc/passwd", b"a/../../x", b"", b"..", b"a\0b", b"c:\\x"):
        codes = (Code.FILE_ESCAPE, Code.FILE_MISSING, Code.FILE_PATH, Code.FILE_DIRECTORY)
        yield f"the file {path!r}", there((b"location", path)), codes
    yield "a file that is not there", there((b"location", b"gone.bin")), (Code.FILE_MISSING,)
    for key in (b"offset", b"length"):
        for text in (b"-1", b"x", b"1e3", b"0x10", b" 1", b"9" * 19, b"9" * 5000, "١".encode(), b"1.0"):
            yield f"{key!r} of {text[:8]!r}{len(text)}", there(place, (key, text)), (Code.ONNX_EXTERNAL,)
    for offset in (1, 4, 63, 64, 65, 10**17):
        yield f"offset {offset}", there(place, (b"offset", b"%d" % offset)), (Code.ONNX_RANGE,)
    for length in (0, 1, 63, 65, 10**17):
        yield f"length {length}", there(place, (b"length", b"%d" % length)), (Code.ONNX_RANGE,)


CASES = [case for make in (truncations, wires, depths, tensors, outside) for case in make()]


def read(data: bytes, **limits: int) -> int:
    with formats._open(MemoryFile(data, folder=FOLDER), None, limits) as checkpoint:
        inspect(checkpoint)
        return sum(len(content(info) or b"") for info in checkpoint.tensors.values())


def test_there_are_five_hundred() -> None:
    assert len(CASES) >= 500
    assert len({label for label, _, _ in CASES}) == len(CASES)


def test_the_file_that_they_are_made_of_is_sound() -> None:
    assert read(SOUND) == 64 + 16
    with formats._open(MemoryFile(SOUND), None, {}) as checkpoint:
        assert set(checkpoint.tensors) == {"a.q.weight", "a.q.bias"}
        assert checkpoint.tensors["a.q.weight"].strides == (1, 4)


@pytest.mark.parametrize("cases", batches(CASES), ids=lambda cases: cases[0][0])
def test_each_is_refused_under_its_code(cases: Sequence[tuple[str, bytes, tuple[Code, ...]]]) -> None:
    each(cases, _is_refused)


@pytest.mark.parametrize(("count", "limits"), first(1, [(13_000, {"objects": 10_000}), (450_000, {})]))
def test_very_many_fields(count: int, limits: dict[str, int]) -> None:
    with bounded_memory(128 << 20), pytest.raises(CheckpointError) as caught:
        read(model(graph()) + b"\x08\1" * count, **limits)
    assert caught.value.code is Code.LIMIT_OBJECTS


def _is_refused(data: bytes, codes: tuple[Code, ...]) -> None:
    with no_hang() as within, bounded_memory(128 << 20), pytest.raises(CheckpointError) as caught:
        within(partial(read, data))
    assert caught.value.code in codes
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.gate
def test_many_readers_of_many_products_take_no_time() -> None:
    """Each of which might be the bias of each."""
    count = 500
    products = [node(b"MatMul", (b"x", b"onnx::MatMul_7"), (b"y",)) for _ in range(count)]
    added = [node(b"Add", (b"y", b"y"), (b"y",)) for _ in range(count)]
    whole = model(message(*((1, one) for one in products + added), (5, WEIGHT)))
    with counted() as lines:
        read(whole)
    assert max(lines.values()) < 300 * count  # each of each is five hundred times as many


@pytest.mark.parametrize("seed", first(1, range(8)))
def test_mutations_are_read_or_refused(seed: int) -> None:
    rng, refusals, whole = random.Random(seed), set[Code | None](), 0
    with no_hang() as within, bounded_memory(128 << 20):
        for _ in range(1000):
            data = bytearray(SOUND)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(5, len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            try:
                within(partial(read, bytes(data[: rng.choice((len(data), rng.randrange(5, len(data))))])))
                whole += 1
            except CheckpointError as error:
                refusals.add(error.code)
    assert refusals >= {Code.ONNX_TRUNCATED, Code.ONNX_WIRE, Code.ONNX_TEXT}
    assert whole > 50
