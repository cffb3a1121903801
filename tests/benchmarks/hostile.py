"""What the worst hostile inputs cost: the slowest of all the categories and bombs, and whether two seconds hold.

    python tests/benchmarks/hostile.py

Processor time of opening each input and reading what its case names, once; and what importing torch takes in the same
run, as a measure of the machine. Exits 1 where an input of less than 50 MB takes over two seconds.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from qkvinspect import formats
from qkvinspect.errors import CheckpointError
from qkvinspect.garbage import none_collected
from tests.formats.test_limits import BOMBS
from tests.hostile.categories.case import Reads
from tests.hostile.categories.catalogue import CASES
from tests.hostile.memory import MemoryFile
from tests.hostile.reading import content
from tests.hostile.writers import zips

PROMISED = 2.0
LARGE = 50 << 20
SHOWN = 12


def inputs() -> Iterator[tuple[str, Callable[[], MemoryFile], Collection[str] | None]]:
    """Name, maker, and which tensors are read: all, if None."""
    for number, case in CASES:
        reads = isinstance(case.outcome, Reads)
        names = [name for name, raw in case.outcome.tensors.items() if raw is not None] if reads else None
        yield f"{number}: {case.label}", case.source, names
    for label, pickled in BOMBS.items():
        yield f"bomb: {label}", lambda data=pickled[0]: MemoryFile(zips.torch_archive(data, {})), ()


def seconds(source: MemoryFile, names: Collection[str] | None) -> float:
    began = time.process_time()
    try:
        with none_collected(), formats._open(source, None, {}) as checkpoint:
            for name in checkpoint.tensors if names is None else names:
                content(checkpoint.tensors[name])
    except CheckpointError:
        pass
    return time.process_time() - began


def main() -> int:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    torch = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    taken: list[tuple[float, int, str]] = []
    for label, build, names in inputs():
        source = build()
        taken.append((seconds(source, names), source.size, label))
    slowest = sorted(taken, reverse=True)
    print(f"| slowest of {len(taken):,} | MB | seconds | of `import torch` |\n| --- | --- | --- | --- |")
    for cost, size, label in slowest[:SHOWN]:
        print(f"| {label} | {size / 1e6:.1f} | {cost:.2f} | {cost / torch:.2f} |")
    return int(any(cost > PROMISED for cost, size, _ in taken if size < LARGE))


if __name__ == "__main__":
    sys.exit(main())
