"""How long a command takes on a small file, beside what importing torch alone takes.

    python tests/benchmarks/startup.py

Whole processes, interleaved, after one warm-up each; medians and ratios of one run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 9
SAMPLE = Path(__file__).parent.parent.parent / "sample_checkpoints" / "transformer.pt"
BASE = "python -c 'import torch'"

COMMANDS = {
    BASE: [sys.executable, "-c", "import torch"],
    "python -c 'import typer, rich.console'": [sys.executable, "-c", "import typer, rich.console"],
    "qkvinspect --help": [sys.executable, "-m", "qkvinspect", "--help"],
    "qkvinspect show": [sys.executable, "-m", "qkvinspect", "show", str(SAMPLE)],
    "qkvinspect show --no-norms": [sys.executable, "-m", "qkvinspect", "show", "--no-norms", str(SAMPLE)],
    "qkvinspect show --format json": [sys.executable, "-m", "qkvinspect", "show", "--format", "json", str(SAMPLE)],
    "qkvinspect explain": [sys.executable, "-m", "qkvinspect", "explain", str(SAMPLE)],
}


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        seconds(command)
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    base = statistics.median(times[BASE])
    print(f"| whole process, median of {ROUNDS} | seconds | of `import torch` |\n| --- | --- | --- |")
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"| `{name}` | {median:.3f} | {median / base:.2f} |")


if __name__ == "__main__":
    main()
