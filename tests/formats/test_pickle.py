"""The inert pickle reader, against the real pickle module: equal on plain data, deaf to everything else."""

from __future__ import annotations

import io
import os
import pickle
import socket
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkvinspect.errors import CheckpointError
from qkvinspect.formats.pickle import Call, Global, Loaded, Persistent, TensorCall, load, load_prefix, load_whole
from qkvinspect.formats.pickle.keys import Keys, MalformedError
from tests.batches import batched
from tests.some import spread, tried

walk = sys.modules["qkvinspect.formats.pickle.walk"]

PROTOCOLS = range(6)

KEYS = st.text(max_size=8) | st.integers() | st.booleans() | st.none() | st.tuples(st.text(max_size=3), st.integers())
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**700), 2**700)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=300)
    | st.binary(max_size=300)
)
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=20,
)


def value(node: Any) -> Any:
    """What the pickle meant: old protocols write bytes and sets as calls, which the reader leaves as calls."""
    match node:
        case Call(function=Global(module="_codecs", name="encode"), arguments=(str(text), _)):
            return text.encode("latin-1")
        case Call(function=Global(module="builtins" | "__builtin__", name="bytes"), arguments=()):
            return b""
        case Call(function=Global(module="builtins" | "__builtin__", name="set"), arguments=arguments, items=items):
            return set(value(arguments[0] if arguments else items))
        case Call(
            function=Global(module="builtins" | "__builtin__", name="frozenset"), arguments=arguments, items=items
        ):
            return frozenset(value(arguments[0] if arguments else items))
        case list():
            return [value(item) for item in node]
        case tuple():
            return tuple(value(item) for item in node)
        case dict():
            return {value(key): value(item) for key, item in node.items()}
        case _:
            return node


def plain(original: Any) -> Any:
    """The original with ordered dicts as dicts, which is how the reader gives them."""
    match original:
        case dict():
            return {key: plain(item) for key, item in original.items()}
        case list():
            return [plain(item) for item in original]
        case tuple():
            return tuple(plain(item) for item in original)
        case _:
            return original


@pytest.mark.parametrize("protocol", PROTOCOLS)
@tried(given(original=PLAIN), few=8, many=60)
def test_plain_data_of_every_protocol(protocol: int, original: object) -> None:
    assert repr(value(load(pickle.dumps(original, protocol), "f"))) == repr(plain(original))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(items=st.sets(st.integers() | st.text(max_size=5)))
@settings(max_examples=20, deadline=None)
def test_sets_of_every_protocol(protocol: int, items: set[object]) -> None:
    assert value(load(pickle.dumps(items, protocol), "f")) == items
    assert value(load(pickle.dumps(frozenset(items), protocol), "f")) == frozenset(items)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_recursive_values_stay_so(protocol: int) -> None:
    inner: list[object] = [1]
    loop: list[object] = [inner, inner]
    loop.append(loop)
    read: Any = load(pickle.dumps(loop, protocol), "f")
    assert read[0] is read[1]
    assert read[2] is read


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_tuple_that_holds_itself(protocol: int) -> None:
    knot: tuple[list[object]] = ([],)
    knot[0].append(knot)
    read: Any = load(pickle.dumps(knot, protocol), "f")
    assert read[0][0] == read or read[0][0][0] is read[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nested_tuples_are_keys_too(protocol: int) -> None:
    original = {("a", ("b", 1)): 2}
    assert load(pickle.dumps(original, protocol), "f") == original


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@batched(
    "data expected",
    [
        (b"S'a\\x41\\n'\n.", "aA\n"),
        (b'S"it\'s"\n.', "it's"),
        (b"S'\\u0041'\n.", "\\u0041"),
        (b"U\x02\xe9\xff.", "\xe9\xff"),
        (b"T\x02\x00\x00\x00ab.", "ab"),
        (b"Va\\u0041\n.", "aA"),
        (b"I01\n.", True),
        (b"I00\n.", False),
        (b"I-7\n.", -7),
        (b"L12345678901234567890L\n.", 12345678901234567890),
        (b"F1e3\n.", 1000.0),
        (b"(I1\nI2\nl.", [1, 2]),
        (b"(I1\nI2\nd.", {1: 2}),
        (b"I1\nI2\n0.", 1),
        (b"I1\n(I2\nI3\n1.", 1),
        (b"I1\n(0.", 1),
        (b"I1\n2\x86.", (1, 1)),
        (b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00N.", None),
        (b"\x8a\x00.", 0),
        (b"\x8b\x01\x00\x00\x00\xff.", -1),
        (b"\x8d\x02\x00\x00\x00\x00\x00\x00\x00ab.", "ab"),
        (b"\x8e\x02\x00\x00\x00\x00\x00\x00\x00ab.", b"ab"),
    ],
)
def test_opcodes_that_today_s_pickle_does_not_write(data: bytes, expected: object) -> None:
    assert load(data, "f") == expected
    assert pickle.loads(data, encoding="latin-1") == expected


@pytest.mark.parametrize("text", [b"02", b"0x10", b"1_0", b" 7"])
def test_numbers_that_are_written_otherwise(text: bytes) -> None:
    """As the real pickle reads them, or not at all."""
    try:
        real = pickle.loads(b"I" + text + b"\n.")
    except ValueError:
        real = None
    try:
        ours = load(b"I" + text + b"\n.", "f")
    except CheckpointError:
        return
    assert ours == real


def test_tuples_that_hold_each_other_many_times_are_no_key_to_hash_for_years(in_time: Any, tmp_path: Path) -> None:
    """Seven levels of a hundred references each: 10^14 parts to hash in a kilobyte."""
    data = b"}K\x01\x85q\x000"
    for level in range(7):
        data += b"(" + b"h%c" % level * 100 + b"tq%c0" % (level + 1)
    path = tmp_path / "x.pkl"
    path.write_bytes(data + b"h\x07Ns.")
    code = "from qkvinspect.formats.pickle import load; load(path.read_bytes(), 'f')"
    assert in_time(code, path).startswith("refused")


def test_bytearrays() -> None:
    assert load(pickle.dumps(bytearray(b"ab"), 5), "f") == b"ab"


class Point:
    def __init__(self) -> None:
        self.x = 1


class Table(dict[str, int]):
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_become_calls(protocol: int) -> None:
    node = load(pickle.dumps(Point(), protocol), "f")
    assert isinstance(node, Call)
    assert node.state == {"x": 1}
    flat = repr((node.function, node.arguments))
    assert "Point" in flat
    assert __name__ in flat


@pytest.mark.parametrize("protocol", range(2, 6))
def test_entries_of_a_dict_subclass(protocol: int) -> None:
    node = load(pickle.dumps(Table(a=1), protocol), "f")
    assert isinstance(node, Call)
    assert node.function == Global(__name__, "Table")
    assert node.entries == {"a": 1}


@pytest.mark.parametrize("protocol", range(1, 6))
def test_persistent_ids(protocol: int) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return ("storage", 5) if obj == "here" else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(["here"])
    (node,) = load(buffer.getvalue(), "f")
    assert isinstance(node, Persistent)
    assert node.id == ("storage", 5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_several_pickles_in_a_row(protocol: int) -> None:
    first, second = pickle.dumps([1], protocol), pickle.dumps("two", protocol)
    data = b"junk" + first + second
    assert load_prefix(data, 4, "f") == Loaded([1], 4 + len(first), ())
    assert load_prefix(data, 4 + len(first), "f") == Loaded("two", len(data), ())


MALFORMED = {
    "empty": b"",
    "no stop": b"N",
    "nothing at stop": b".",
    "two values at stop": b"NN.",
    "mark left at stop": b"(N.",
    "bytes after stop": b"N.N",
    "newline after stop": b"N.\n",
    "unknown opcode": b"\xffN.",
    "unknown printable opcode": b"?N.",
    "protocol 6": b"\x80\x06N.",
    "protocol 255": b"\x80\xffN.",
    "PERSID": b"P1\n.",
    "INST": b"(ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\no.",
    "EXT1": b"\x82\x01.",
    "EXT2": b"\x83\x01\x00.",
    "EXT4": b"\x84\x01\x00\x00\x00.",
    "NEXT_BUFFER": b"\x97.",
    "READONLY_BUFFER": b"N\x98.",
    **{f"underflow of {code!r}": code + b"." for code in (b"R", b"b", b"a", b"s", b"2", b"\x93", b"Q", b"0", b"\x81")},
    **{f"underflow of {code!r}, 1 there": b"N" + code + b"." for code in (b"R", b"s", b"\x93", b"\x86", b"\x92")},
    "underflow of TUPLE1": b"\x85.",
    "underflow of TUPLE3": b"NN\x87.",
    "underflow below a mark": b"N(R.",
    "tuple reaches below a mark": b"NN(\x86.",
    "put of nothing": b"q\x00.",
    "memoize of nothing": b"\x94N.",
    **{f"no mark for {code!r}": b"N" + code + b"." for code in (b"t", b"l", b"d", b"e", b"u", b"1", b"\x90", b"\x91")},
    "get of nothing": b"h\x00.",
    "long get of nothing": b"Nr\x00\x00\x00\x00j\x01\x00\x00\x00.",
    "text get of nothing": b"g5\n.",
    "text get of no number": b"gx\n.",
    "negative put": b"Np-1\n.",
    "list as key": b"}]Ns.",
    "dict as key": b"}}Ns.",
    "tuple with a list as key": b"}]\x85Ns.",
    "key without value": b"(NNNd.",
    "key without value, set": b"}(Nu.",
    "append to None": b"NNa.",
    "append to a tuple": b")Na.",
    "extend a dict": b"}(Ne.",
    "add to a dict": b"}(N\x90.",
    "add to a list": b"](N\x90.",
    "set item of a list": b"]NNs.",
    "state of a list": b"]Nb.",
    "state of None": b"NNb.",
    "global named by numbers": b"K\x01K\x02\x93.",
    "global that is not UTF-8": b"c\xff\n\xff\n.",
    "global without name": b"cos\n",
    "text that is not UTF-8": b"X\x02\x00\x00\x00\xff\xfe.",
    "text without end": b"Vabc",
    "string without quotes": b"Sabc\n.",
    "string of one quote": b"S'\n.",
    "string of two kinds of quote": b"S'a\"\n.",
    "int of letters": b"Iabc\n.",
    "empty int": b"I\n.",
    "long of letters": b"LxL\n.",
    "float of letters": b"Fabc\n.",
    "int of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    **{
        f"huge length of {code!r}": code + b"\xff" * width + b"abc."
        for code, width in ((b"X", 4), (b"B", 4), (b"T", 4), (b"U", 1), (b"C", 1), (b"\x8c", 1), (b"\x8a", 1))
    },
    **{f"2^63 - 1 bytes of {code!r}": code + b"\xff" * 7 + b"\x7fabc." for code in (b"\x8d", b"\x8e", b"\x96")},
    **{f"2^64 - 1 bytes of {code!r}": code + b"\xff" * 8 + b"abc." for code in (b"\x8d", b"\x8e", b"\x96")},
    "giant LONG4": b"\x8b\xff\xff\xff\x7fabc.",
    "negative LONG4": b"\x8b\xff\xff\xff\xffabc.",
    "short frame length": b"\x95\x01.",
    "frame past the end": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
    "frame within a frame": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x95\x02\0\0\0\0\0\0\0N.",
    "opcode across a frame's end": b"\x80\x04\x95\x03\0\0\0\0\0\0\0K\x01K\x020.",
    "number across a frame's end": b"\x80\x04\x95\x02\0\0\0\0\0\0\0M\x01\x00.",
    "short float": b"G\x00.",
    "short int": b"J\x00.",
}


@batched("data", MALFORMED)
def test_malformed(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^file\.pt: ") as caught:
        load(data, "file.pt")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


def real_pickle() -> bytes:
    """The pickle of a small real checkpoint, of every sort of thing that torch writes."""
    buffer = io.BytesIO()
    state = {"w": torch.nn.Parameter(torch.ones(2, 2)), "h": torch.ones(1).to(torch.float8_e5m2), "lr": 0.1, "n": 300}
    torch.save({"model": state, "args": [1, None, True, ("x", 2**40)], "where": Path("x")}, buffer)
    buffer.seek(0)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def many_tensors(count: int = 300) -> bytes:
    """The pickle of so many tensors that their memo entries need four bytes, as nearly all do in a checkpoint."""
    buffer = io.BytesIO()
    kinds = [torch.zeros(3), torch.zeros(2, 300), torch.tensor(1.0), torch.zeros(1, 2, 70000), torch.zeros(2, 1, 1, 1)]
    state: dict[str, Any] = {f"w{n}": kinds[n % 5].T if n % 10 == 1 else kinds[n % 5].clone() for n in range(count)}
    state["tied"] = state["w299"]
    state["grad"] = torch.nn.Parameter(torch.zeros(2))
    torch.save({"model": state, "again": list(state.values())}, buffer)
    buffer.seek(0)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def spelled_out(node: Any, seen: dict[int, Any] | None = None) -> Any:
    """A node as plain values, with calls as tuples."""
    match node:
        case Call(function=function, arguments=arguments):
            return ("call", spelled_out(function), spelled_out(arguments), node.state, node.items, node.entries)
        case Persistent():
            return ("persistent", spelled_out(node.id))
        case Global():
            return str(node)
        case dict():
            return {key: spelled_out(item) for key, item in node.items()}
        case list() | tuple():
            return type(node)(spelled_out(item) for item in node)
        case _:
            return node


def test_tensors_taken_in_at_one_step_are_those_that_the_opcodes_make(monkeypatch: pytest.MonkeyPatch) -> None:
    data = many_tensors()
    quick = load_whole(data, "f")
    assert sum(isinstance(reference, TensorCall) for reference in quick.persistent) > 200
    monkeypatch.setattr(walk, "tensor_call", lambda *_: None)
    slow = load_whole(data, "f")
    assert not any(isinstance(reference, TensorCall) for reference in slow.persistent)
    assert spelled_out(quick.value) == spelled_out(slow.value)
    assert [item.id[2] for item in quick.references] == [item.id[2] for item in slow.references]  # type: ignore[index]
    value: Any = quick.value
    assert value["model"]["tied"] is value["model"]["w299"] is value["again"][299]


def test_parts_of_a_tensor_can_be_got_from_the_memo() -> None:
    """Every memo entry of a tensor that was taken in at one step leads to what the opcodes would have put there."""
    data = many_tensors()
    last: Any = load_whole(data, "f").persistent[-2]
    assert isinstance(last, TensorCall)
    for place, part in enumerate(last.parts):
        get = b"j" + (last.first + place).to_bytes(4, "little")
        assert load(data[:-1] + get + b"\x86.", "f")[1] is not None  # type: ignore[index]
        read: Any = load(data[:-1] + get + b"\x86.", "f")
        assert spelled_out(read[1]) == spelled_out(part)
    with pytest.raises(CheckpointError, match="never stored"):
        load(data[:-1] + b"j" + (last.first + 100).to_bytes(4, "little") + b"\x86.", "f")


def test_memo_entries_counted_in_two_ways() -> None:
    with pytest.raises(CheckpointError, match="counts memo entries in two ways"):
        load(many_tensors()[:-1] + b"\x94.", "f")


@pytest.mark.parametrize("place", spread(10, range(0, 90, 3)))
def test_a_tensor_with_a_changed_byte_is_read_as_the_opcodes_say(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(many_tensors())
    data[data.index(b"X\x03\0\0\x00150r") + place - 20] ^= 1 << place % 8
    outcomes: list[Any] = []
    for quick in (True, False):
        if not quick:
            monkeypatch.setattr(walk, "tensor_call", lambda *_: None)
        try:
            outcomes.append(repr(spelled_out(load(bytes(data), "f"))))
        except CheckpointError as error:
            outcomes.append(str(error.code))
    assert outcomes[0] == outcomes[1]


def test_truncated_at_every_byte() -> None:
    data = real_pickle()
    assert isinstance(load(data, "f"), dict)
    for end in range(len(data)):
        with pytest.raises(CheckpointError):
            load(data[:end], "f")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_truncated_at_every_byte_by_protocol(protocol: int) -> None:
    data = pickle.dumps({"a": [1, 2.5, b"x", None, True, (1, 2, 3, 4)], "b": {"c": 2**70}, "s": {1}}, protocol)
    for end in range(len(data)):
        with pytest.raises(CheckpointError):
            load(data[:end], "f")


def is_plain(node: object) -> bool:
    if isinstance(node, dict):
        return all(is_plain(key) and is_plain(item) for key, item in node.items())
    if isinstance(node, (list, tuple)):
        return all(map(is_plain, node))
    return not isinstance(node, (Call, Global, Persistent))


class Inert(pickle._Unpickler):
    """The real unpickler in Python (the one in C allots memory for a memo index), without globals."""

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(module, name)


@tried(
    given(
        protocol=st.sampled_from(PROTOCOLS),
        cuts=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
    ),
    few=200,
    many=1500,
)
def test_changed_bytes_read_as_the_real_pickle_reads_them_or_are_refused(
    protocol: int, cuts: list[tuple[int, int]]
) -> None:
    data = bytearray(pickle.dumps({"a": [1, 2.5, None, True, (1, 2, 3)], "b": {"c": 2**70}, "d": "é"}, protocol))
    for place, byte in cuts:
        data[place % len(data)] = byte
    try:
        node = load(bytes(data), "f")
    except CheckpointError:
        return
    try:
        comparable = is_plain(node) and b"\x95" not in data
    except RecursionError:  # a list that holds itself
        return
    if comparable:
        assert repr(node) == repr(Inert(io.BytesIO(data), encoding="latin-1").load())


@tried(given(st.binary(max_size=60)), few=200, many=1500)
def test_any_bytes_give_a_value_or_one_kind_of_error(data: bytes) -> None:
    for candidate in (data, data + b".", b"(" + data + b"t."):
        try:
            load(candidate, "f")
        except CheckpointError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017


def test_a_deep_pickle_neither_recurses_nor_overflows() -> None:
    depth = 90_000
    node: Any = load(b"]" * depth + b"a" * (depth - 1) + b".", "f")
    seen = 1
    while node:
        (node,) = node
        seen += 1
    assert seen == depth
    load(b"(" * depth + b"t" * depth + b".", "f")


def test_a_huge_memo_index_costs_nothing() -> None:
    assert load(b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.", "f") is None


class Evil:
    """Pickles as a call of anything."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def bare_global(module: str, name: str, protocol: int) -> bytes:
    """A call ``module.name("touched")`` of something that need not exist."""
    if protocol < 4:
        return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"U\x07touched\x85R."
    return b"\x80\x04\x8c%c%s\x8c%c%s\x93\x8c\x07touched\x85R." % (
        len(module),
        module.encode(),
        len(name),
        name.encode(),
    )


WATCH = """
import sys, pathlib
from qkvinspect.weights.reading import read_rows
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.strided import strided_matrix
from tests.hostile.inert import compile_constructors

def read(path):
    with open_checkpoint(path) as checkpoint:
        matrix = strided_matrix(checkpoint.tensors["w"], "out_in")
        return b"".join(read_rows(matrix, (range(matrix.rows),)))

*paths, control = sys.argv[1:]
expected = read(paths[0])
compile_constructors()
events = []
before = set(sys.modules)
sys.addaudithook(lambda event, args: events.append((event, str(args[:1]))))
for path in paths:
    assert read(path) == expected, path
allowed = {"open", "os.scandir", "os.listdir", "builtins.id"}
seen = [event for event in events if event[0] not in allowed]
print("EVENTS", seen)
print("MODULES", sorted(set(sys.modules) - before))
import pickle
pickle.loads(pathlib.Path(control).read_bytes())
print("CONTROL", any(event == "os.system" for event, _ in events))
"""


def test_nothing_that_a_pickle_names_is_imported_or_called(tmp_path: Path, zipped: Any, rezip: Any) -> None:
    touched = tmp_path / "touched"
    evil = {
        "os.system": Evil(os.system, f"touch {touched}"),
        "exec": Evil(exec, f"open({str(touched)!r}, 'w')"),
        "eval": Evil(eval, f"open({str(touched)!r}, 'w')"),
        "popen": Evil(subprocess.Popen, ["touch", str(touched)]),
        "socket": Evil(socket.create_connection, ("127.0.0.1", 9)),
        "import": Evil(__import__, "antigravity"),
        "getattr": Evil(getattr, os.system, "__call__"),
        "open": Evil(open, str(touched), "w"),
        "mkdir": Evil(os.mkdir, str(touched)),
        "path": Evil(Path, str(touched)),
        "torch": Evil(torch.load, str(touched)),
    }
    weights = {"w": torch.arange(6.0).view(2, 3)}
    paths = [tmp_path / "plain.pt"]
    torch.save(weights, paths[0])
    for protocol in (2, 4):
        for name, bad in evil.items():
            for where, whole in (
                ("value", {**weights, "evil": bad}),
                ("deep", {"state_dict": weights, "hyper_parameters": {"a": [bad, (bad,)]}}),
                ("wrapped", {"model": weights, "args": Evil(dict, [("x", bad)])}),
            ):
                paths.append(tmp_path / f"{name}-{where}-{protocol}.pt")
                torch.save(whole, paths[-1], pickle_protocol=protocol)
    # Modules that do not exist, and ones that would run on import.
    base = tmp_path / "base.pt"
    torch.save({**weights, "evil": "PLACEHOLDER"}, base)
    for module, name in (("no_such_module_at_all", "f"), ("antigravity", "f"), ("this", "s"), ("os", "system")):
        for protocol in (2, 4):
            path = tmp_path / f"bare-{module}-{protocol}.pt"
            path.write_bytes(base.read_bytes())
            with zipfile.ZipFile(path) as archive:
                pickled = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
            call = bare_global(module, name, protocol)[2:-1]
            assert b"X\x0b\x00\x00\x00PLACEHOLDER" in pickled
            rezip(path, {"data.pkl": pickled.replace(b"X\x0b\x00\x00\x00PLACEHOLDER", call)})
            paths.append(path)
    control = tmp_path / "control.pkl"
    control.write_bytes(pickle.dumps(Evil(os.system, "true")))
    watch = subprocess.run(
        [sys.executable, "-c", WATCH, *map(str, paths), str(control)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert watch.stderr == ""
    assert watch.stdout.splitlines() == ["EVENTS []", "MODULES []", "CONTROL True"]
    assert not touched.exists()


def test_an_ordered_dict_of_pairs_is_a_dict() -> None:
    """Python 2 pickled it as a call with its items; so do checkpoints of its time (lpips)."""
    data = b"ccollections\nOrderedDict\n(](](K\x01K\x02e](K\x03K\x04eetR."
    assert load(data, "f") == pickle.loads(data) == {1: 2, 3: 4}


@pytest.mark.parametrize("arguments", [b"(K\x01t", b"(](K\x01etK\x00\x86", b"(](](K\x01eet"])
def test_an_ordered_dict_of_something_else_stays_a_call(arguments: bytes) -> None:
    assert isinstance(load(b"ccollections\nOrderedDict\n" + arguments + b"R.", "f"), Call)


def test_ten_thousand_huge_numbers_are_keys_and_no_more() -> None:
    keys = Keys()
    for number in range(10_000):
        keys.check((number,) if number % 2 else number - (1 << 80))
    keys.check(7)
    with pytest.raises(MalformedError, match="over 10000 tuples or huge numbers"):
        keys.check((7,))
