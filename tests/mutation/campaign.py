"""Mutations spread over the core, each tried with the tests that run its line. Three commands:

    python -m tests.mutation.mapping --into map.json tests/layouts tests/checks ...
    python -m tests.mutation.sample --draw 500 --seed 20
    python -m tests.mutation.campaign --map map.json

The first is run once, folder by folder if that is handier, and again for tests that are new; the second draws what is
tried, and the third goes on where it stopped. It collects the tests once; each mutation is made in a process forked
from that, by giving the live functions their changed code, and its tests run there, the quickest first and none after
one has failed. A change of what a module does while it is imported is made in a copy of the package instead. A test
that fails is run again without the mutation, and counts only if it passes then. ``--again`` tries what survived once
more, with the tests that there are now.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import os
import pkgutil
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import NoReturn

import pytest

from tests.mutation import sample
from tests.mutation.mapping import Lines
from tests.mutation.mutate import ROOT, mutant

SECONDS = 4.0
"""Of the processor, that the tests of one mutation may have taken without it."""
QUIET = 120.0
"""Seconds by the clock that a test may take, after which it hangs."""
MEMORY = 6 << 30
"""Bytes of addresses that a mutated process may have."""
Functions = dict[tuple[str, int, str], list[FunctionType]]
"""The live functions by file, first line and name."""
FEWEST = 4
"""Tests that are tried whatever they take."""


@dataclass(frozen=True)
class Mutation:
    file: str
    line: int
    tree: ast.Module
    source: str

    @classmethod
    def of(cls, file: str, number: int) -> Mutation:
        source = (ROOT / "qkvinspect" / file).read_text()
        line, _, tree = mutant(source, number)
        return cls(file, line, tree, source)

    @property
    def module(self) -> str:
        parts = Path("qkvinspect", self.file).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tests_of(mutation: Mutation, lines: Lines, most: float) -> list[str]:
    """The quickest case of each test function that runs the line, then the other cases, as many as there is time for.

    Those of files that name the module come first, then those of the room.
    Of a part of a line that has no line of its own, the tests of its function; of what is imported, all of the file
    and those whose own file names the module.
    """
    of_file = lines.of(mutation.file)
    before, after = compile(mutation.source, "", "exec"), compile(mutation.tree, "", "exec")
    pairs = changed_functions(before, after)
    tests = (
        of_file.get(mutation.line, set()) if pairs else set().union(*of_file.values(), lines.naming(mutation.module))
    )
    if not tests:
        inside = {line for code, _ in pairs or () for line in lines_inside(code)}
        tests = set().union(*(of_file.get(line, set()) for line in inside))
    seconds = lines.seconds
    naming = lines.naming(mutation.module)
    own = f"tests/{mutation.file.partition('/')[0]}/"
    nearness = {test: (test not in naming, not test.startswith(own), seconds[test], test) for test in tests}
    first: dict[str, str] = {}
    for test in sorted(tests, key=lambda test: nearness[test]):
        first.setdefault(test.partition("[")[0], test)
    rest = sorted(tests - {*first.values()}, key=lambda test: nearness[test])
    found: list[str] = []
    spent = 0.0
    for test in [*first.values(), *rest]:
        spent += seconds[test]
        if spent > most and len(found) >= FEWEST:
            break
        found.append(test)
    return found


def codes(code: CodeType) -> Iterator[CodeType]:
    """Of a module or class the code of its functions and classes, in the order of the source."""
    return (const for const in code.co_consts if isinstance(const, CodeType))


def lines_inside(code: CodeType) -> set[int]:
    """Lines of a function but for its first, which the import runs."""
    inner = set().union(*(lines_inside(part) for part in codes(code)), set())
    return inner | {line for _, _, line in code.co_lines() if line and line > code.co_firstlineno}


def changed_functions(before: CodeType, after: CodeType) -> list[tuple[CodeType, CodeType]] | None:
    """The outermost functions whose code differs, or None where what the import itself does differs."""
    if before == after:
        return []
    if before.co_flags & 1 and before.co_name not in ("<module>",):  # CO_OPTIMIZED: a function, not a class's body
        return [(before, after)]
    old, new = [*codes(before)], [*codes(after)]
    if before.co_code != after.co_code or _plain(before) != _plain(after) or len(old) != len(new):
        return None
    found: list[tuple[CodeType, CodeType]] = []
    for one, other in zip(old, new, strict=True):
        inner = changed_functions(one, other)
        if inner is None:
            return None
        found += inner
    return found


def _plain(code: CodeType) -> list[str]:
    return [repr(const) for const in code.co_consts if not isinstance(const, CodeType)]


def in_place(
    mutation: Mutation, functions: dict[tuple[str, int, str], list[FunctionType]]
) -> Callable[[], None] | None:
    """What makes the mutation in this process, or None where only a new import can."""
    module = sys.modules[mutation.module]
    path = str(module.__file__)
    before, after = compile(mutation.source, path, "exec"), compile(mutation.tree, path, "exec")
    pairs = changed_functions(before, after)
    if pairs is None:
        return _constants(mutation, module)
    found: list[tuple[FunctionType, CodeType]] = []
    for old, new in pairs:
        live = functions.get((path, old.co_firstlineno, old.co_qualname), [])
        if not live or any(function.__code__.co_freevars != new.co_freevars for function in live):
            return None
        found += [(function, new) for function in live]

    def make() -> None:
        for function, code in found:
            function.__code__ = code

    return make if found else None


def _constants(mutation: Mutation, module: ModuleType) -> Callable[[], None] | None:
    """The same for a value that a module gives a name, and those that are made from it."""
    before = ast.parse(mutation.source).body
    changed: set[str] = set()
    again: list[ast.stmt] = []
    for old, new in zip(before, mutation.tree.body, strict=True):
        uses = {node.id for node in ast.walk(new) if isinstance(node, ast.Name)}
        if ast.dump(old) == ast.dump(new) and not uses & changed:
            continue
        match new:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                changed.add(name)
                again.append(new)
            case ast.FunctionDef() if ast.dump(old) == ast.dump(new) and not _uses_at_import(new) & changed:
                continue
            case _:
                return None

    def make() -> None:
        names = {name: vars(module)[name] for name in changed}
        exec(compile(ast.Module(again, []), str(module.__file__), "exec"), vars(module))
        for other in [*sys.modules.values()]:
            if getattr(other, "__name__", "").startswith(("qkvinspect", "tests", "test_")):
                for name, value in names.items():
                    if vars(other).get(name, names) is value:
                        setattr(other, name, vars(module)[name])

    return make


def _uses_at_import(function: ast.FunctionDef) -> set[str]:
    parts = [*function.decorator_list, *function.args.defaults, *(part for part in function.args.kw_defaults if part)]
    return {node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)}


class Campaign:
    """Takes the place of pytest's loop over tests."""

    def __init__(self, lines: Lines, picked: list[sample.Mutation], seconds: float, end: float) -> None:
        self.lines, self.picked, self.seconds, self.end = lines, picked, seconds, end
        self.tried: Counter[tuple[str, str]] = Counter()
        self.unsound: set[str] = set()
        self.sound: set[str] = set()
        self.killers = {(one.file, one.detail) for one in sample.read() if one.outcome == "killed"}

    def pytest_sessionstart(self) -> None:
        import hypothesis  # not before pytest has begun, which warns of that

        hypothesis.settings.register_profile("mutation", deadline=None, database=None)
        hypothesis.settings.load_profile("mutation")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for module in pkgutil.walk_packages([str(ROOT / "qkvinspect")], "qkvinspect."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        items = {item.nodeid: item for item in session.items}
        self.lines.guess([*items])
        functions: Functions = {}
        for function in gc.get_objects():
            if type(function) is FunctionType:  # isinstance wakes what deprecates itself
                code = function.__code__
                key = code.co_filename, code.co_firstlineno, code.co_qualname
                functions.setdefault(key, []).append(function)
        gc.collect()
        gc.freeze()
        for picked in self.picked:
            if time.monotonic() > self.end:
                break
            begun = time.monotonic()
            number = picked.now()
            if number is None:
                outcome, detail = "gone", ""
            else:
                outcome, detail = self.tried_with(Mutation.of(picked.file, number), items, functions)
            self.tried[picked.room, outcome] += 1
            keep(replace(picked, outcome=outcome, detail=detail))
            seconds = f"{time.monotonic() - begun:.1f}"
            print(seconds, outcome, picked.file, *picked.name, detail, sep="\t", file=sys.stderr, flush=True)
        return True

    def tried_with(
        self,
        mutation: Mutation,
        items: dict[str, pytest.Item],
        functions: Functions,
    ) -> tuple[str, str]:
        """(killed, survived or uncovered; the test that noticed, or how many did not)."""
        tests = [
            test for test in tests_of(mutation, self.lines, self.seconds) if test in items and test not in self.unsound
        ]
        tests.sort(key=lambda test: (mutation.file, test) not in self.killers)
        make = in_place(mutation, functions)
        while tests:
            if make is None:
                killer = in_a_copy(mutation, tests)
            else:
                killer = in_a_fork([items[test] for test in tests], self.lines, make)
            if killer is None:
                return "survived", f"{len(tests)} tests"
            if killer not in items:
                return "killed", killer
            if killer in self.sound or in_a_fork([items[killer]], self.lines, lambda: None) is None:
                self.sound.add(killer)
                self.killers.add((mutation.file, killer))
                return "killed", killer
            self.unsound.add(killer)
            tests.remove(killer)
        return "uncovered", ""


def keep(tried: sample.Mutation) -> None:
    """What became of a mutation, in the file as it is by now: others may have written reasons there."""
    same = (tried.file, tried.name)
    sample.write([tried if (one.file, one.name) == same else one for one in sample.read()])


def in_a_fork(items: list[pytest.Item], lines: Lines, make: Callable[[], None]) -> str | None:
    """The first of these tests that fails, in a process forked from this one, after a change."""
    reading, writing = os.pipe()
    folder = tempfile.mkdtemp(prefix="mutation")
    child = os.fork()
    if not child:
        os.close(reading)
        _run(items, lines, make, writing, folder)
    os.close(writing)
    said = _heard(reading).splitlines()
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    shutil.rmtree(folder, ignore_errors=True)
    if said and said[-1] == "all passed":
        return None
    return said[-1] if said else "the change itself"


def _heard(reading: int) -> str:
    """What is written into a pipe until it is closed, or nothing more comes for long: then the writer hangs."""
    heard = b""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], QUIET)[0] and (part := pipe.read(1 << 16)):
            heard += part
    return heard.decode()


def _run(items: list[pytest.Item], lines: Lines, make: Callable[[], None], writing: int, folder: str) -> NoReturn:
    """Write each test's name before it is run, and at the end that all passed."""
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    config, session = items[0].config, items[0].session
    vars(config)["_tmp_path_factory"]._basetemp = Path(folder)
    with contextlib.suppress(BaseException):
        make()
        for item, following in zip(items, [*items[1:], None], strict=True):
            os.write(writing, f"{item.nodeid}\n".encode())
            # SIGPROF is not caught: a test that takes far more than it did hangs, which is noticing.
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, 10 + 5 * lines.seconds.get(item.nodeid, 0))
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                os._exit(1)
        os.write(writing, b"all passed\n")
    os._exit(0)


def in_a_copy(mutation: Mutation, tests: list[str]) -> str | None:
    """The first of these tests that fails beside a copy of the package with the mutation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in ROOT.iterdir():
            if path.name not in ("qkvinspect", ".git", ".hypothesis"):
                (folder / path.name).symlink_to(path)
        shutil.copytree(ROOT / "qkvinspect", folder / "qkvinspect")
        (folder / "qkvinspect" / mutation.file).write_text(ast.unparse(mutation.tree))
        command = [sys.executable, "-m", "pytest", "-x", "-rf", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONPATH": name}
        try:
            done = subprocess.run(
                command, cwd=name, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
        except subprocess.TimeoutExpired:
            return "hangs"
    if done.returncode == 0:
        return None
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failed[0] if failed else "the import itself"


def _candidates(picked: sample.Mutation, lines: Lines, most: float) -> list[str]:
    number = picked.now()
    return [] if number is None else tests_of(Mutation.of(picked.file, number), lines, most)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--room", action="append", help="only these rooms")
    parser.add_argument("--file", action="append", help="only files that begin so")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--minutes", type=float, default=600)
    given = parser.parse_args()
    lines = Lines.read(given.map)
    wanted = ("survived", "uncovered") if given.again else ("drawn",)
    picked = [one for one in sample.read() if one.outcome in wanted and (not given.room or one.room in given.room)]
    picked = [one for one in picked if not given.file or one.file.startswith(tuple(given.file))]
    campaign = Campaign(lines, picked, given.seconds, time.monotonic() + 60 * given.minutes)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    files = sorted({test.partition("::")[0] for one in picked for test in _candidates(one, lines, given.seconds)})
    pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:cov", *files], plugins=[campaign])
    print("not counted, as they fail without a mutation:", *sorted(campaign.unsound))
    for (room, outcome), count in sorted(campaign.tried.items()):
        print(f"{room}: {count} {outcome}")
    sample.write_tables()


if __name__ == "__main__":
    main()
