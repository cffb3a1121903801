"""`qkvinspect scan` over 1,000 checkpoints of a real training run, and what more of them cost.

    python tests/benchmarks/scan.py | tee tests/benchmarks/SCAN.md

A small transformer is trained for 250 steps; its 50 checkpoints are copied until there are 1,000, and linked until
there are 10,000. All engines must write the same bytes, with a worker killed in the middle and after the scan itself
was killed and resumed, before any time is printed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from processes import QKVINSPECT, Taken, environment, interleaved, run

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.scans.cluster import cluster  # noqa: E402
from tests.scans.training import save, train  # noqa: E402

COPIES = 20
LOOP = """
import sys
from pathlib import Path
from qkvinspect.scans.rows import Job, scan_one
from qkvinspect.workers import limit
limit(1)
with open(sys.argv[2], "wb") as file:
    for path in Path(sys.argv[1]).iterdir():
        file.write(scan_one(str(path), Job()).rows())
"""
"""What must be done in any case: each checkpoint opened, measured and written, one after another."""


def make(folder: Path) -> Path:
    """1,000 checkpoints with steps of their own, so that they are one long run."""
    first = save(folder / "first", train(0, 245, every=5))
    thousand = folder / "thousand"
    thousand.mkdir()
    for path in first.iterdir():
        for copy in range(COPIES):
            shutil.copy(path, thousand / f"{copy}-{path.name}")
    return thousand


def linked(folder: Path, thousand: Path) -> Path:
    ten = folder / "ten"
    ten.mkdir()
    for path in thousand.iterdir():
        for copy in range(10):
            os.link(path, ten / f"{copy}-{path.name}")
    return ten


def start(cache: Path, *argv: object) -> subprocess.Popen[bytes]:
    command = [*QKVINSPECT, "scan", *map(str, argv)]
    return subprocess.Popen(command, env=environment(cache), stderr=subprocess.DEVNULL)


def begun(journal: Path) -> bool:
    """Whether some of a scan that is running is on disk."""
    try:
        with closing(sqlite3.connect(f"file:{journal}?mode=ro&immutable=1", uri=True)) as database:
            return database.execute("SELECT count(lines) FROM found").fetchone()[0] > 100
    except sqlite3.Error:
        return False


def killed(folder: Path, thousand: Path, cache: Path, whole: bytes) -> None:
    """A worker is killed, and then the scan; both times nothing is lost or doubled."""
    for name, victim in (("worker", -1), ("scan", 0)):
        out = folder / f"{name}.jsonl"
        process = start(cache, thousand, "-o", out, "--jobs", 2)
        while not begun(Path(f"{out}.journal")):
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int([str(process.pid), *children][victim]), signal.SIGKILL)
        process.wait()
        if name == "scan":
            assert not out.exists()
            run((*QKVINSPECT, "scan", thousand, "-o", out, "--resume"), cache)
        assert out.read_bytes() == whole, f"a killed {name} changed the rows"


def main() -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = folder / "cache"
        thousand = make(folder)
        ten = linked(folder, thousand)
        hundred = folder / "hundred"
        hundred.mkdir()
        for path in sorted(thousand.iterdir())[:100]:
            os.link(path, hundred / path.name)

        def scan(source: Path, out: str, *flags: object) -> Taken:
            argv = (*QKVINSPECT, "scan", source, "-o", folder / out, "--force", *map(str, flags))
            return run(argv, cache)[0]

        scan(hundred, "warm.jsonl")
        with cluster() as (address, _):
            engines = {"one": ("--jobs", "1"), "two": ("--jobs", "2"), "dask": ("--dask", address)}
            commands = {
                name: (*QKVINSPECT, "scan", thousand, "-o", folder / f"{name}.jsonl", "--force", *flags)
                for name, flags in engines.items()
            }
            commands["loop"] = (sys.executable, "-c", LOOP, thousand, folder / "loop.jsonl")
            taken = interleaved(commands, 3, cache)
        whole = (folder / "one.jsonl").read_bytes()
        assert (folder / "two.jsonl").read_bytes() == (folder / "dask.jsonl").read_bytes() == whole
        assert sorted((folder / "loop.jsonl").read_bytes().splitlines()) == sorted(whole.splitlines())
        killed(folder, thousand, cache, whole)
        few = scan(hundred, "hundred.jsonl", "--jobs", 2)
        many = scan(ten, "ten.jsonl", "--jobs", 2)
        again = run((*QKVINSPECT, "scan", ten, "-o", folder / "ten.jsonl", "--resume"), cache)[0]
        trend = run((*QKVINSPECT, "trend", folder / "one.jsonl", "-f", "csv"), cache)[0]
        each = (many.seconds - taken["two"].seconds) / 9000
        rows, journal = ((folder / f"ten.jsonl{end}").stat().st_size / 1e4 for end in ("", ".journal"))

    def line(what: str, taken: Taken, count: int) -> None:
        milliseconds = 1000 * taken.seconds / count
        print(f"| {what} | {count:,} | {taken.seconds:.1f} | {milliseconds:.1f} | {taken.megabytes:.0f} |")

    print("2 cores; 3 layers of 4 heads, 45 rows a checkpoint; the first four are medians of 3 runs in turn.")
    print(f"MB are those of the process that has most. Other work on the machine when it began: load {load:.1f}.\n")
    print("| | checkpoints | seconds | ms each | peak MB |\n| --- | --- | --- | --- | --- |")
    line("a plain loop over them, in one process", taken["loop"], 1000)
    line("`scan --jobs 1`", taken["one"], 1000)
    line("`scan --jobs 2`", taken["two"], 1000)
    line("`scan --dask`, 2 workers over TCP", taken["dask"], 1000)
    line("`scan --jobs 2`", few, 100)
    line("`scan --jobs 2`", many, 10_000)
    line("`scan --resume` with nothing left to do", again, 10_000)
    line("`trend`", trend, 1000)
    hours = each * 1e6 / 3600
    print(
        f"\nEvery further checkpoint takes {1000 * each:.1f} ms on 2 cores, {rows / 1e3:.1f} kB of rows and "
        f"{journal / 1e3:.1f} kB of journal: extrapolated, 1,000,000 of them take {hours:.1f} hours, or "
        f"{60 * hours / 32:.0f} minutes in 32 such jobs (`--shard`), {rows / 1e3:.0f} GB of rows, and memory as above."
    )


if __name__ == "__main__":
    main()
