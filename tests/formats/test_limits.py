"""Limits: bombs end small, what is over a limit is refused by its name, and a flag raises it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError, UsageError
from qkvinspect.formats import open_checkpoint
from qkvinspect.formats.limits import NAMES, Limits, limits_for, parse
from qkvinspect.formats.pickle import load
from tests.some import mass

HEAD = b"\x80\x02"


def doubled(levels: int) -> bytes:
    """Lists that hold the one before twice, by the memo."""
    steps = b"".join(
        b"]r%b(j%bj%be" % ((n + 1).to_bytes(4, "little"), *[n.to_bytes(4, "little")] * 2) for n in range(levels)
    )
    return b"]r\0\0\0\0" + steps


def equal() -> bytes:
    """Keys whose hashes are all 0."""
    return b"".join(b"\x8a\x14%bN" % (n * (2**61 - 1) << 60).to_bytes(20, "little") for n in range(40_000))


def numbers(count: int) -> bytes:
    return b"".join(b"r" + n.to_bytes(4, "little") for n in range(count))


SMALL = {"objects": 40_000, "opcodes": 400_000, "memo": 100_000}
BOMBS: dict[str, tuple[Callable[[], bytes], set[Code] | None, dict[str, int]]] = {
    "a million lists in each other": (lambda: b"]" * 10**6 + b"a" * (10**6 - 1), {Code.LIMIT_STACK}, {}),
    "a million tuples in each other": (lambda: b"N" + b"\x85" * 10**6, {Code.LIMIT_OBJECTS}, {}),
    "a hundred thousand tuples in each other": (lambda: b"N" + b"\x85" * 100_000, None, {}),
    "a million marks": (lambda: b"(" * 10**6 + b"t" * 10**6, {Code.LIMIT_STACK}, {}),
    "a million lists": (lambda: b"]0" * 10**6 + b"N", {Code.LIMIT_OBJECTS}, SMALL),
    "a million sets": (lambda: b"\x8f0" * 10**6 + b"N", {Code.LIMIT_OBJECTS}, SMALL),
    "a million steps": (lambda: b"N0" * 10**6 + b"N", {Code.LIMIT_OPCODES}, SMALL),
    "twenty million lists": (lambda: b"]0" * 10**7 + b"N", {Code.LIMIT_OBJECTS, Code.LIMIT_OPCODES}, {}),
    "ten million sets": (lambda: b"\x8f0" * 10**7 + b"N", {Code.LIMIT_OBJECTS, Code.LIMIT_OPCODES}, {}),
    "ten million steps": (lambda: b"N0" * 5 * 10**6 + b"N", {Code.LIMIT_OPCODES}, {}),
    "ten million DUP": (lambda: b"N" + b"2" * 10**7, {Code.LIMIT_STACK}, {}),
    "DUP and TUPLE2": (lambda: b"N" + b"2\x86" * 10**5, None, {}),
    "memo doubling": (lambda: doubled(5000), {Code.PICKLE_STOP}, {}),
    "LONG4 of 2 GB": (lambda: b"\x8b\xff\xff\xff\x7f" + b"a" * 1000, {Code.LIMIT_INTEGER}, {}),
    "text of 4 GB": (lambda: b"X\xff\xff\xff\xff" + b"a" * 1000, {Code.PICKLE_LENGTH}, {}),
    "a memo of two hundred thousand": (lambda: b"N" + numbers(200_000), {Code.LIMIT_MEMO}, SMALL),
    "a memo of two million": (lambda: b"N" + numbers(2 * 10**6), {Code.LIMIT_MEMO}, {}),
    "keys whose hashes are equal": (lambda: b"}(" + equal() + b"u", {Code.LIMIT_KEY}, {}),
}
"""What makes each, between the head and the end, when it is its turn: together they are 100 MB."""
CASES = [pytest.param(*case, id=name) for name, case in BOMBS.items()]
LONG = ("twenty million lists", "ten million sets", "ten million steps", "a memo of two million")
"""Those of which every run has a tenth, against a tenth of the limits."""

WATCH = """
import json, os, resource, signal, sys
from qkvinspect.errors import CheckpointError
from qkvinspect.formats import open_checkpoint, safetensors, torch_zip
for line in sys.stdin:
    path, limits = json.loads(line)
    if child := os.fork():
        if status := os.waitpid(child, 0)[1]:
            print("ended with", status, flush=True)
        continue
    signal.alarm(60)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        open_checkpoint(path, limits=limits)
        outcome = "read"
    except CheckpointError as error:
        outcome = error.code
    print(outcome, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, flush=True)
    os._exit(0)
"""

Watched = Callable[..., tuple[str, float]]


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """Outcome and megabytes of opening a file in a process of its own, each a fork of one that has the imports."""
    with subprocess.Popen(
        [sys.executable, "-c", WATCH],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        asked, answers = process.stdin, process.stdout
        assert asked
        assert answers

        def watched(path: Path, limits: dict[str, int] | None = None) -> tuple[str, float]:
            asked.write(json.dumps([str(path), limits or {}]) + "\n")
            asked.flush()
            outcome, megabytes = answers.readline().split()
            return outcome, float(megabytes)

        yield watched


@pytest.mark.parametrize(("made", "codes", "limits"), [mass(one) if one.id in LONG else one for one in CASES])
def test_bombs_end_small(
    made: Callable[[], bytes], codes: set[Code] | None, limits: dict[str, int], zipped: Any, watched: Watched
) -> None:
    outcome, megabytes = watched(zipped(HEAD + made() + b"."), limits)
    assert outcome in (codes or {Code.NO_WEIGHTS})
    assert megabytes < 256


def test_a_number_of_elements_costs_nothing(zipped: Any, watched: Watched) -> None:
    """A storage of 2^62 elements that the file does not hold."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu\x8a\x08" + bytes(7) + b"\x40tQ"
    data = HEAD + b"}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\x01\x85K\x01\x85\x89NtRs."
    outcome, megabytes = watched(zipped(data, {"0": bytes(4)}))
    assert outcome == Code.STORAGE_SIZE
    assert megabytes < 64


@pytest.mark.parametrize(
    ("header", "codes"),
    [
        (b'{"a":[' + b"[]," * 4_000_000 + b"[]]}", {Code.LIMIT_OBJECTS}),
        (b'{"a":' + b"[" * 300_000, {Code.SAFETENSORS_JSON}),
        (
            b'{"w":{"dtype":"U8","shape":[%b0],"data_offsets":[0,0]}}' % (b"%d," % 2**62 * 100_000),
            {Code.SAFETENSORS_SHAPE},
        ),
    ],
    ids=["many lists", "deep", "rank 100,000"],
)
def test_headers_that_would_take_memory(
    header: bytes, codes: set[Code], raw_safetensors: Any, watched: Watched
) -> None:
    outcome, megabytes = watched(raw_safetensors(header))
    assert outcome in codes
    assert megabytes < 256


def test_a_wide_tree_of_names(saved: Any, watched: Watched) -> None:
    """2^28 names of one tensor in a kilobyte."""
    node: Any = {"w": torch.ones(1)}
    for _ in range(28):
        node = {"a": node, "b": node}
    outcome, _ = watched(saved({"model": node}))
    assert outcome == Code.LIMIT_TENSORS


def test_the_refusal_names_limit_number_and_flag(saved: Any) -> None:
    path = saved({f"w{n}": torch.ones(1) for n in range(30)})
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, limits={"tensors": 29})
    assert caught.value.code == Code.LIMIT_TENSORS
    assert "expected at most 29, found 30" in str(caught.value)
    assert "--limit tensors=N" in str(caught.value)
    with open_checkpoint(path, limits={"tensors": 30}) as checkpoint:
        assert len(checkpoint.tensors) == 30


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("depth", "header", "shards", "expansion")])
def test_every_limit_of_a_torch_file_is_held(name: str, saved: Any) -> None:
    path = saved({"model": {f"w{n}": torch.ones(1) for n in range(30)}})
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, limits={name: 0})
    assert caught.value.code == Code[f"LIMIT_{name.upper()}"]
    assert f"--limit {name}=N" in str(caught.value)


def test_other_limits_are_held(tmp_path: Path, saved: Any, raw_safetensors: Any) -> None:
    expanded = saved({"w": torch.ones(1, 4).expand(8, 4)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}')
    deep = saved({"model": {"a": {"b": {"c": {"w": torch.ones(1)}}}, "w": torch.ones(1)}}, "deep.pt")
    for name, path, code in (
        ("expansion", expanded, Code.LIMIT_EXPANSION),
        ("header", raw_safetensors({"w": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}), Code.LIMIT_HEADER),
        ("shards", index, Code.LIMIT_SHARDS),
        ("depth", deep, Code.LIMIT_DEPTH),
    ):
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path, limits={name: 2 if name == "depth" else 1})
        assert caught.value.code == code


def test_limits_grow_with_the_file() -> None:
    assert limits_for(1000, {}) == Limits()
    assert limits_for(10**9, {}).objects > Limits().objects
    assert limits_for(10**9, {"objects": 5}).objects == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200MB", 200_000_000), ("5", 5), ("1k", 1000), ("2GiB", 2 << 30), ("3 kb", 3000)],
)
def test_how_limits_are_written(text: str, expected: int) -> None:
    assert parse([f"header={text}"]) == {"header": expected}


@pytest.mark.parametrize("text", ["", "header", "header=", "header=x", "header=-1", "nothing=1", "=1", "header=1QB"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(UsageError, match="is not a limit"):
        parse([text])


def test_the_flag_reaches_the_reader(saved: Any, run: Any) -> None:
    path = saved({"w": torch.ones(1)})
    refused = run("show", path, "--limit", "tensors=0")
    assert refused.code == 2
    assert "--limit tensors=N" in refused.err
    assert run("show", path, "--limit", "tensors=1").code == 0


@pytest.mark.gate
def test_a_pickle_alone_has_the_limits_of_a_small_file() -> None:
    assert load(HEAD + b"]" * 50_000 + b"a" * 49_999 + b".", "f")
