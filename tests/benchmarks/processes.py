"""Commands as processes of their own: how long each takes, and how much memory it has at most."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = """
import os, sys, time
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
began = time.perf_counter()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, out, 1)])
_, status, usage = os.wait4(pid, 0)
taken = usage.ru_utime + usage.ru_stime
print(time.perf_counter() - began, usage.ru_maxrss / 1e3, taken, os.waitstatus_to_exitcode(status))
"""
"""The system counts the memory of who starts a process as its own, so who starts it is small."""

_SCRIPT = Path(sys.executable).with_name("qkvinspect")

QKVINSPECT = (str(_SCRIPT),) if _SCRIPT.exists() else (sys.executable, "-m", "qkvinspect")
"""As it is typed: ``-m`` imports what finds modules first, which takes 4 ms."""


@dataclass(frozen=True)
class Taken:
    """What one run of a command took.

    Attributes:
        seconds: by the clock.
        processor: seconds of the processor, its own and the system's for it.
    """

    seconds: float
    megabytes: float
    processor: float


def environment(cache: Path) -> dict[str, str]:
    """This one, with compiled modules kept as an installation keeps them."""
    root = str(Path(__file__).parents[2])
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return kept | {"PYTHONPATH": root, "PYTHONPYCACHEPREFIX": str(cache)}


def run(command: Sequence[str | Path], cache: Path, *, may_find: bool = False) -> tuple[Taken, bytes]:
    """Run a command that must succeed; what it took, and what it printed.

    Args:
        may_find: the exit code may be 1.
    """
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "out"
        launched = subprocess.run(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, printed, *command],
            env=environment(cache),
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, megabytes, processor, code = map(float, launched.stdout.split())
        if code and not (may_find and code == 1):
            raise SystemExit(f"{' '.join(map(str, command))} failed: {launched.stderr}")
        return Taken(seconds, megabytes, processor), printed.read_bytes()


def interleaved(commands: Mapping[str, Sequence[str | Path]], rounds: int, cache: Path) -> dict[str, Taken]:
    """The medians of each command, all run in turn, after one round that is not counted; of the processor the least.

    What other programs do makes a process wait, and take longer at times, but never take less of the processor.
    """
    taken: dict[str, list[Taken]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            found, _ = run(command, cache)
            if number:
                taken[name].append(found)
    return {
        name: Taken(
            statistics.median(t.seconds for t in some), max(t.megabytes for t in some), min(t.processor for t in some)
        )
        for name, some in taken.items()
    }


@contextmanager
def saying(path: Path | None) -> Generator[Callable[[str], None]]:
    """Print lines as they come, and write them to a file in the end, if there is one and nothing went wrong."""
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    yield say
    if path is not None:
        path.write_text("\n".join(lines) + "\n")


def printed(command: Sequence[str | Path], cache: Path) -> object:
    """The JSON that a command prints."""
    return json.loads(run(command, cache)[1])
