"""Nothing that a file names is imported, called or looked up: watched from inside the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.hostile import seeds
from tests.hostile.memory import MemoryFile
from tests.hostile.mutants import MAKERS
from tests.hostile.targets import TARGETS
from tests.hostile.writers import headers, legacy, pickles, tars, zips
from tests.some import first

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "fuzz" / "corpus"
AMOUNTS = {"some": (100, 4), "all": (400, 1)}
"""Mutants of each maker, and of how many files of the corpus one is taken."""
CANARY = "qkvinspect_canary"
"""A module that exists, and writes a file when it is imported or its function is called."""
WARM_UP = (
    (ROOT / "sample_checkpoints" / "transformer.pt").read_bytes(),
    *(table[name] for table in (seeds.ZIPS, seeds.LEGACY, seeds.TARS) for name in table),
    seeds.SAFETENSORS["two"],
    headers.safetensors(headers.pairs([("w", {}), ("w", {})])),
    b"",
)
"""What makes the reader load the parts of the standard library that it loads late."""


def calls() -> Iterator[bytes]:
    """Pickles that would run code, by every opcode that can."""
    run, text = pickles.name(CANARY, "run"), pickles.text
    weight = pickles.tensor(pickles.storage("0", 16), 0, (4, 4), (4, 1))
    yield pickles.call(run, text("REDUCE"))
    yield run + pickles.row(text("NEWOBJ")) + b"\x81"
    yield run + pickles.row(text("NEWOBJ_EX")) + b"}\x92"
    yield text(CANARY) + text("run") + b"\x93" + pickles.row(text("STACK_GLOBAL")) + b"R"
    yield b"(" + text("INST") + f"i{CANARY}\nrun\n".encode()
    yield b"(" + run + text("OBJ") + b"o"
    yield pickles.call(run) + pickles.named({"__setstate__": run}) + b"b"
    yield pickles.call(pickles.name("builtins", "getattr"), run, text("__call__"))
    yield pickles.call(pickles.name("builtins", "eval"), text(f"__import__('{CANARY}').run()"))
    yield pickles.call(pickles.name("os", "system"), text(f"{sys.executable} -m {CANARY}"))
    yield pickles.call(pickles.name("importlib", "import_module"), text(CANARY))
    yield pickles.call(pickles.name("torch.hub", "load"), text(CANARY), text("run"))
    yield pickles.call(pickles.name("torch._utils", "_rebuild_parameter"), pickles.call(run), pickles.TRUE, b"}")
    yield pickles.call(pickles.name("torch._tensor", "_rebuild_from_type_v2"), run, run, pickles.row(weight), b"}")
    yield pickles.call(pickles.name("torch._utils", "_rebuild_wrapper_subclass"), run, text("x"))
    yield pickles.tensor(pickles.storage("0", 16, "run", module=CANARY), 0, (4, 4), (4, 1))
    yield pickles.row(text("module"), run, text("file"), text("source")) + b"Q"
    yield run + b"Q"
    yield pickles.name("copyreg", "_reconstructor") + pickles.row(run, run, pickles.NONE) + b"R"
    yield pickles.name("numpy", "dtype") + pickles.row(run) + b"R"
    yield b"\x82\x01"


def dangerous() -> Iterator[bytes]:
    """Each of them beside a sound tensor, in every format that holds pickles."""
    weight = pickles.tensor(pickles.storage("0", 16), 0, (4, 4), (4, 1))
    for value in calls():
        root = pickles.whole(pickles.mapping([(pickles.text("weight"), weight), (pickles.text("other"), value)]), 4)
        alone = pickles.whole(value, 4)
        yield zips.torch_archive(root, seeds.KEYS)
        yield zips.torch_archive(alone, seeds.KEYS)
        yield zips.torch_archive(pickles.whole(pickles.mapping([(value, weight)]), 4), seeds.KEYS)
        yield legacy.legacy(root, seeds.LEGACY_STORAGES[:1])
        for part in ("magic", "protocol", "system", "keys"):
            yield legacy.legacy(seeds.LEGACY_PICKLES["torch"], seeds.LEGACY_STORAGES, **{part: alone})
        for place, member in enumerate(seeds.TAR_MEMBERS):
            members = list(seeds.TAR_MEMBERS)
            members[place] = tars.Member(member.name, alone)
            yield tars.archive(members)
        yield alone


def corpus(mutants: int, every: int) -> Iterator[MemoryFile]:
    for table in (seeds.ZIPS, seeds.LEGACY, seeds.SAFETENSORS, seeds.TARS):
        yield from map(MemoryFile, table.values())
    yield from map(MemoryFile, dangerous())
    for make in MAKERS.values():
        yield from (make(Random(seed)) for seed in range(mutants))
    yield from (TARGETS[path.parent.name].source(path.read_bytes()) for path in sorted(CORPUS.glob("*/*"))[::every])


def write(file: MemoryFile, place: Path) -> None:
    if not file.folder:
        place.with_suffix(".pt").write_bytes(file.data)
        return
    place.mkdir()
    for name, data in {**file.folder, file.name: file.data}.items():
        (place / name).write_bytes(data)


def watched(tmp_path: Path, files: Iterator[MemoryFile]) -> Any:
    """What inert.py says of the files."""
    folder, warm, canary = tmp_path / "corpus", tmp_path / "warm", tmp_path / "canary"
    for made in (folder, warm, canary):
        made.mkdir()
    for number, file in enumerate(files):
        write(file, folder / f"{number:05}")
    for number, data in enumerate(WARM_UP):
        (warm / f"{number}.pt").write_bytes(data)
    text = f"from pathlib import Path\n\ndef run(*arguments):\n    Path({str(tmp_path / 'sung')!r}).touch()\n\nrun()\n"
    (canary / f"{CANARY}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.inert", str(folder), str(warm)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{canary}"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("amount", first(1, AMOUNTS))
@pytest.mark.gate
def test_nothing_runs(amount: str, tmp_path: Path) -> None:
    seen = watched(tmp_path, corpus(*AMOUNTS[amount]))
    assert seen["violations"] == []
    assert seen["modules"] == []
    assert not (tmp_path / "sung").exists()
    assert seen["files"] > 1000
    assert seen["read"] > 100


def test_the_canary_sings(tmp_path: Path) -> None:
    """The same files do run code where pickle reads them, and the hook sees it: the proof can fail."""
    (tmp_path / f"{CANARY}.py").write_text(f"open({str(tmp_path / 'sung')!r}, 'w')\n")
    code = "import pickle, sys\nseen = []\nsys.addaudithook(lambda event, arguments: seen.append(event))\n"
    code += f"pickle.loads({pickles.whole(pickles.name(CANARY, 'x'))!r})"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"try:\n    {code.replace(chr(10), chr(10) + '    ')}\nexcept AttributeError:\n    print(seen)",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (tmp_path / "sung").exists()
    assert {"pickle.find_class", "import", "open"} <= set(json.loads(done.stdout.replace("'", '"')))
