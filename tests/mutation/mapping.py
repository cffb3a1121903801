"""Which tests run which line of the package, and how long each takes: by this a campaign of mutations chooses tests.

    python -m tests.mutation.mapping --into map.json tests/layouts tests/checks ...

Folders may be mapped one by one, and again after a change: a test's newest lines take the place of its older ones. A
test that takes more than three seconds of the processor is left out, as no mutation could be tried with many of those,
and so is one that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import coverage
import pytest

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 3.0


@dataclass
class Lines:
    """Of each test its seconds, and by file (relative to the package) the lines that it runs."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Lines:
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"seconds": self.seconds, "lines": self.lines}))

    def of(self, file: str) -> dict[int, set[str]]:
        """By line of a file, the tests that run it."""
        found: dict[int, set[str]] = {}
        for test, files in self.lines.items():
            for line in files.get(file, ()):
                found.setdefault(line, set()).add(test)
        return found

    def naming(self, module: str) -> set[str]:
        """The tests of the files that speak of a module: of its tables, no line is run after the import."""
        files = {test.partition("::")[0] for test in self.seconds}
        name = module.removeprefix("qkvinspect.").rpartition(".")[2]
        found = {file for file in files if module in (text := _text(file)) or f"import {name}" in text}
        return {test for test in self.seconds if test.partition("::")[0] in found}

    def guess(self, tests: list[str]) -> None:
        """Of other cases of mapped test functions, that they run what those do."""
        mapped: dict[str, str] = {}
        for test in sorted(self.lines, key=lambda test: -self.seconds[test]):
            mapped.setdefault(test.partition("[")[0], test)
        for test in tests:
            if test not in self.lines and (like := mapped.get(test.partition("[")[0])):
                self.lines[test], self.seconds[test] = self.lines[like], self.seconds[like]


@cache
def _text(file: str) -> str:
    return (ROOT / file).read_text()


class Mapping:
    """Notes the lines of each test while pytest runs it."""

    def __init__(self, cases: int) -> None:
        self.cases = cases
        self.coverage = coverage.Coverage(data_file=None, include=[f"{ROOT}/qkvinspect/*"], config_file=False)
        self.seconds: dict[str, float] = {}
        self.bad: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        by_function: dict[str, list[pytest.Item]] = {}
        for item in items:
            by_function.setdefault(item.nodeid.partition("[")[0], []).append(item)
        items[:] = [one for cases in by_function.values() for one in cases[:: -(-len(cases) // self.cases)]]

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, None]:
        self.coverage.start()
        self.coverage.switch_context(item.nodeid)
        begun = time.process_time()
        yield
        self.seconds[item.nodeid] = time.process_time() - begun
        self.coverage.stop()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, None]:
        signal.signal(signal.SIGPROF, _too_long)
        signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        # By the clock too, and again and again: one that was stopped may wait for ever for what it stopped.
        signal.setitimer(signal.ITIMER_REAL, 60 * MOST_SECONDS, MOST_SECONDS)
        yield
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:
            self.bad.add(report.nodeid)

    def into(self, lines: Lines) -> None:
        for test in self.seconds:
            lines.seconds.pop(test, None)
            lines.lines.pop(test, None)
            if test not in self.bad:  # of what only uses tables, no line is run
                lines.seconds[test], lines.lines[test] = round(self.seconds[test], 4), {}
        data = self.coverage.get_data()
        for name in data.measured_files():
            file = name.partition("/qkvinspect/")[2] or name
            for line, tests in data.contexts_by_lineno(name).items():
                for test in tests:
                    if test and test not in self.bad:
                        lines.lines[test].setdefault(file, []).append(line)


def _too_long(number: int, frame: FrameType | None) -> None:
    inside = frame
    while inside:
        if f"{os.sep}coverage{os.sep}" in inside.f_code.co_filename:  # may hold a lock that it waits for later
            signal.setitimer(signal.ITIMER_PROF, 0.01)
            return
        inside = inside.f_back
    pytest.skip("takes too long")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=1000, help="of each test function")
    parser.add_argument("tests", nargs="+")
    given = parser.parse_args()
    lines = Lines.read(given.into)
    sys.path.insert(0, str(ROOT))
    mapping = Mapping(given.cases)
    pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:cov", *given.tests], plugins=[mapping])
    mapping.into(lines)
    lines.write(given.into)
    print(f"{len(mapping.seconds)} tests run, {len(mapping.bad)} of them left out; {len(lines.lines)} in {given.into}")


if __name__ == "__main__":
    main()
