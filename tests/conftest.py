"""What most tests need: the command line as a function, and the samples."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from qkvinspect.cli import main
from tests import compiler
from tests.here import kept_commands, scans_here

ROOT = Path(__file__).parent.parent

# One process a core runs the tests: threads of BLAS and OpenMP beside them would only wait for each other. And what is
# compiled, here or by a command in a process of its own, is kept for the next, whatever the surroundings say.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if os.environ.get("PYTEST_XDIST_WORKER") == "gw1":  # first what the other worker comes to last: each compiles for both
    for _name in ("sympy", "scipy.stats", "pandas"):
        with suppress(ImportError):
            import_module(_name)


compiler.leave_out()


def _no_wait(_: int) -> None: ...


# Nor do they wait for the disk, which took a tenth of the time. That what is written is forced out of the cache before
# it gets its name is what export/test_durability.py is for, which has an ``os.fsync`` of its own.
os.fsync = _no_wait


@dataclass(frozen=True)
class Result:
    """What a command line did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: at the end, one process would do it alone while the others have nothing left."""
    items.sort(key=lambda item: item.path.name != "test_gate.py")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """What is imported stays: the collector of garbage need not look through it, neither meanwhile nor afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)  # tests leave little behind, and looking for it takes a twentieth of the time


@pytest.fixture
def workers() -> AbstractContextManager[None]:
    """Where scans have their workers: here, which need not be started."""
    return scans_here()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], workers: AbstractContextManager[None]) -> Iterator[Run]:
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*argv: object) -> Result:
        capsys.readouterr()
        code = main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    with workers, kept_commands():
        yield run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped and how to have it, in one line."""
    counts = Counter(reason(report.longrepr) for report in terminalreporter.stats.get("skipped", ()))
    if counts:
        said = "; ".join(f"{count} ({why})" for why, count in counts.most_common())
        terminalreporter.write_line(f"Skipped, and how to have it: {said}", yellow=True)


def reason(told: object) -> str:
    """Why a test was skipped."""
    return (told[2] if isinstance(told, tuple) else str(told)).removeprefix("Skipped: ")


@pytest.fixture
def torch_compiler() -> None:
    compiler.take()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random tensors in every run, where torch is there at all.

    ``torch.manual_seed`` would write down the stack of calls for every kind of GPU that is not there, each time.
    """
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(0)


@pytest.fixture
def samples() -> Path:
    return ROOT / "sample_checkpoints"
