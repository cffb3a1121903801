"""What bounds a command, each alone: what goals can be is read off here.

    python tests/benchmarks/bounds.py [ROUNDS]

Writes BOUNDS.md. The least of all rounds, one after the other: starting and importing; copying and syncing as many
bytes as ``export --split`` writes of 24 layers of width 1024; parsing a header; a sample of one layer of that width.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from processes import QKVINSPECT, interleaved, saying
from scale import encoder, write
from zlib_ng.zlib_ng import crc32

sys.path.insert(0, str(Path(__file__).parents[2]))

from qkvinspect.formats import open_checkpoint, strict_json
from qkvinspect.formats.limits import Limits
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.evidence.gram import normal_scores

HERE = Path(__file__).parent
LAYERS, WIDTH, TENSORS = 24, 1024, 100_000
STEP, FLOW = 8 << 20, 32 << 20


def starts(folder: Path, rounds: int) -> Mapping[str, float]:
    """Processor time of processes."""
    small = HERE.parents[1] / "sample_checkpoints" / "transformer.pt"
    python = (sys.executable, "-c")
    commands = {
        "python -c pass": (*python, "pass"),
        "import numpy": (*python, "import numpy"),
        "import torch": (*python, "import torch"),
        "what show --no-norms imports, and no more": (*python, f"import {imported(small)}"),
        "show --no-norms of a small file": (*QKVINSPECT, "show", "--no-norms", small),
        "show of a small file, heads known": (*QKVINSPECT, "show", "--heads", "2", "--no-evidence", small),
    }
    return {name: taken.processor for name, taken in interleaved(commands, rounds, folder / "cache").items()}


def imported(small: Path) -> str:
    """The modules that a command has in the end, in their order."""
    code = (
        "import sys; own = {*sys.modules}; from qkvinspect.cli import main; main(['show', '--no-norms', sys.argv[1]]);"
        " print(*(name for name in sys.modules if name not in own), sep=', ', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(small)], capture_output=True, text=True, check=True)
    return done.stderr


def copied(folder: Path) -> Mapping[str, Callable[[], object]]:
    """Ways to have 300 MB on the disk: from 72 places of one file, as Q, K and V lie there, and as cp does."""
    source, whole = folder / "source", folder / "whole"
    size = 4 * WIDTH * WIDTH
    with source.open("wb") as file:
        for _ in range(LAYERS * 6):
            file.write(np.random.default_rng(0).bytes(size))
    with whole.open("wb") as file:
        file.write(source.read_bytes()[: 3 * LAYERS * size])
    read = os.open(source, os.O_RDONLY)

    def spans(to: int, step: int) -> None:
        for number in range(3 * LAYERS):
            start, left = (number // 3 * 6 + number % 3) * size, size
            while left:
                done = os.copy_file_range(read, to, min(left, step), start)
                start, left = start + done, left - done

    def ours(step: int, flow: int) -> None:
        """As ``atomic`` does it: one thread copies, the other syncs what is there."""
        to = os.open(folder, os.O_RDWR | os.O_TMPFILE)
        over = threading.Event()

        def syncs() -> None:
            done = 0
            while not over.wait(0.01):
                if (now := os.fstat(to).st_size) - done >= flow:
                    done = now
                    os.fsync(to)

        thread = threading.Thread(target=syncs)
        thread.start()
        spans(to, step)
        over.set()
        thread.join()
        os.fsync(to)
        os.close(to)

    def shell(line: str) -> Callable[[], object]:
        return lambda: subprocess.run(["sh", "-c", line], check=True)

    copy = folder / "copy"
    return {
        "cp and sync, in a shell, of 302 MB": shell(f"cp {whole} {copy}; sync {copy}"),
        "rm of that": shell(f"rm {copy}"),
        "its 72 pieces by copy_file_range of 8 MB, synced beside it": lambda: ours(STEP, FLOW),
        "by one call a piece": lambda: ours(1 << 30, FLOW),
        "synced only in the end": lambda: ours(STEP, 1 << 40),
    }


def looked_at(folder: Path) -> Mapping[str, Callable[[], object]]:
    """As many bytes in memory."""
    values = np.ones(3 * LAYERS * WIDTH * WIDTH, np.float32)
    return {"crc32 of 302 MB in memory": lambda: crc32(values), "max of 302 MB in memory": values.max}


def opened(folder: Path) -> Mapping[str, Callable[[], object]]:
    """A header of many tensors, step by step."""
    path = folder / "many.safetensors"
    write(path, {k: v for n in range(TENSORS // 5) for k, v in encoder(n, 8).items()}, "F32")
    data = path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")]

    def found(*, inspected: bool) -> None:
        with open_checkpoint(path) as checkpoint:
            if inspected:
                inspect(checkpoint, Options(norms=False))

    return {
        f"json.loads of a header of {TENSORS:,} tensors": lambda: json.loads(data),
        "the same, names that stand twice refused": lambda: strict_json.loads(data, "", Limits()),
        "that file opened": lambda: found(inspected=False),
        "and its 20,000 attentions found": lambda: found(inspected=True),
    }


def sampled(_: Path) -> Mapping[str, Callable[[], object]]:
    """The similarities of one layer's rows, of which the weights are asked for their heads."""
    rows = np.random.default_rng(0).standard_normal((WIDTH, WIDTH), np.float32)
    return {
        f"cosines of {count} rows of {WIDTH} as ranks": lambda count=count: normal_scores(rows[:count])
        for count in (256, 512, 1024)
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    gc.disable()  # as ``show`` has it
    with tempfile.TemporaryDirectory() as place, saying(HERE / "BOUNDS.md") as say:
        folder = Path(place)
        say(f"The least of {rounds} runs; load of the machine when it began: {os.getloadavg()[0]:.1f}.\n")
        say("| what | ms by the clock | ms of the processor |\n| --- | --- | --- |")
        for name, seconds in starts(folder, rounds).items():
            say(f"| {name} | | {seconds * 1e3:.0f} |")
        for group in (copied, looked_at, opened, sampled):
            works = group(folder)
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
            for _ in range(rounds):
                for name, work in works.items():
                    gc.collect()
                    began = time.perf_counter(), sum(os.times()[:4])
                    work()
                    taken[name].append((time.perf_counter() - began[0], sum(os.times()[:4]) - began[1]))
            for name, found in taken.items():
                by_clock, by_processor = (min(one) * 1e3 for one in zip(*found, strict=True))
                say(f"| {name} | {by_clock:.1f} | {by_processor:.0f} |")


if __name__ == "__main__":
    main()
