"""Mutations spread over the core, each tried with the tests that cover its line. Two commands:

    pytest -n 0 --cov=qkvinspect --cov-context=test --cov-report= --cov-fail-under=0 --durations=0 TESTS > durations.txt
    python -m tests.mutation.campaign --coverage .coverage --durations durations.txt --count 500 --seed 1

The first is run once, for all tests or folder by folder (--coverage and --durations may be given several times). The
second prints a line a mutation and the table of MUTATIONS.md. What most tests import is imported once; each mutation
runs in a process forked from that, in a copy of the repository, the quickest tests first and none after one has failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.mutation.mutate import ROOT, how_many, mutant

ROOMS = (
    "layouts/packing.py",
    "weights",
    "formats",
    "inspection",
    "inspection/evidence",
    "diff",
    "export",
    "checks",
)
QUICKEST, SECONDS = 60, 120.0
_REWRITE = "pytest.PytestAssertRewriteWarning"  # of what is imported before pytest begins
_SOUND = 3
"""Mutations whose tests must pass without them, before any is believed to be noticed."""


def covering(files: list[Path]) -> dict[str, dict[int, set[str]]]:
    """By file and line, the tests that run it."""
    found: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in files:
        with contextlib.closing(sqlite3.connect(path)) as database:
            names = dict(database.execute("select id, context from context"))
            sources = dict(database.execute("select id, path from file"))
            for file, context, start, stop in database.execute("select file_id, context_id, fromno, tono from arc"):
                test = names[context].partition("|")[0]
                source = sources[file].partition("/qkvinspect/")[2]
                for line in (abs(start), abs(stop)) if test else ():
                    found[source][line].add(test)
    return found


def durations(files: list[Path]) -> tuple[dict[str, float], set[str]]:
    """Seconds of each test, and those that failed unmutated."""
    took: dict[str, float] = defaultdict(float)
    failed: set[str] = set()
    for path in files:
        for line in path.read_text(errors="replace").splitlines():
            if match := re.match(r"([\d.]+)s (?:call|setup|teardown)\s+(\S.*)$", line):
                took[match[2]] += float(match[1])
            elif line.startswith("FAILED "):
                failed.add(line.split(" ")[1])
    return took, failed


def quickest(tests: set[str], took: dict[str, float]) -> list[str]:
    """Of each test function the quickest of its cases, the quickest functions first."""
    found: dict[str, str] = {}
    for test in sorted(tests, key=lambda test: (took.get(test, 0.0), test)):
        found.setdefault(test.partition("[")[0], test)
    return list(found.values())[:QUICKEST]


def chosen(count: int, seed: int) -> list[tuple[str, int]]:
    """(file, number of the mutation), as many of each room."""
    chance = random.Random(seed)
    picked: list[tuple[str, int]] = []
    for room in ROOMS:
        place = ROOT / "qkvinspect" / room
        files = [place] if place.is_file() else sorted(place.rglob("*.py"))
        if room == "inspection":
            files = [file for file in files if "evidence" not in file.parts]
        every = [
            (str(file.relative_to(ROOT / "qkvinspect")), number)
            for file in files
            for number in range(how_many(file.read_text()))
        ]
        picked += chance.sample(every, min(count // len(ROOMS), len(every)))
    chance.shuffle(picked)
    return picked


def survives(folder: Path, tests: list[str], seconds: float) -> bool:
    """Whether all of these tests pass in the changed copy, in a process forked from this one."""
    child = os.fork()
    if not child:
        code = 1
        with open(os.devnull, "w") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            os.setpgid(0, 0)
            os.chdir(folder)
            sys.path.insert(0, str(folder))
            os.environ["PYTHONPATH"] = str(folder)
            import pytest

            with contextlib.suppress(BaseException):
                flags = ("-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-W", f"ignore::{_REWRITE}")
                code = int(pytest.main([*flags, *tests]))
        os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False  # a mutation that hangs was noticed


def preload() -> None:
    """What most tests import, and nothing of ours."""
    import hypothesis
    import numpy
    import pytest
    import safetensors.torch
    import torch
    import typer.testing

    assert all((numpy, pytest, safetensors.torch, torch, typer.testing))
    torch.set_num_threads(1)
    hypothesis.settings.register_profile("mutation", deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    hypothesis.settings.load_profile("mutation")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--coverage", type=Path, action="append", required=True)
    parser.add_argument("--durations", type=Path, action="append", required=True)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=600)
    given = parser.parse_args()
    lines, (took, failed) = covering(given.coverage), durations(given.durations)
    preload()
    tried: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    end = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("qkvinspect", "tests", "sample_checkpoints"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / part, folder)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        for file, number in chosen(given.count, given.seed):
            if time.monotonic() > end:
                break
            source = (ROOT / "qkvinspect" / file).read_text()
            line, change, changed = mutant(source, number)
            of_line = lines[file].get(line) or set().union(*lines[file].values(), set())
            tests = quickest(of_line - failed, took)
            room = next(room for room in sorted(ROOMS, key=len, reverse=True) if file.startswith(room))
            if tests and sum(map(sum, tried.values())) < _SOUND and not survives(folder, tests, 10 * SECONDS):
                sys.exit(f"these tests fail without any mutation: {tests}")
            (folder / "qkvinspect" / file).write_text(changed)
            alive = not tests or survives(folder, tests, SECONDS)
            (folder / "qkvinspect" / file).write_text(source)
            what = "uncovered" if not tests else "survived" if alive else "killed"
            tried[room][["killed", "survived", "uncovered"].index(what)] += 1
            shown = change.replace(chr(10), " ")
            print(f"{what}\t{file}:{line}\t{shown}", flush=True)
    print("\n| room | killed | survived | in no mapped test |\n| --- | ---: | ---: | ---: |")
    for room, counts in sorted(tried.items()):
        print(f"| {room} | {' | '.join(map(str, counts))} |")


if __name__ == "__main__":
    main()
