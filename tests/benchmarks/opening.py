"""How long it takes to open a checkpoint of many tensors, beside torch's own reading and C's unpickling of it.

    python tests/benchmarks/opening.py [PARAMETERS]

A `.pt` of that many parameters (100,000 unless given) with Adam's two averages of each. Processor time of this
process, interleaved; the least of each, as load only adds. torch.load also makes the tensors and maps the file;
C's unpickler makes tuples in their place, so that what is left is the walk over the opcodes.
"""

from __future__ import annotations

import gc
import io
import pickle
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qkvinspect.formats import open_checkpoint

ROUNDS = 5
BASE = "C unpickling of the same pickle"


class Tuples(pickle.Unpickler):
    """C's unpickler, with nothing but tuples and dicts to make: safe only as the file is our own."""

    def persistent_load(self, pid: Any) -> Any:
        return pid

    def find_class(self, module: str, name: str) -> Any:
        return dict if name == "OrderedDict" else lambda *arguments: arguments


def write(path: Path, parameters: int) -> None:
    weights = {f"layers.{n}.weight": torch.full((2, 2), float(n)) for n in range(parameters)}
    averages = {n: {"exp_avg": torch.zeros(2, 2), "exp_avg_sq": torch.zeros(2, 2)} for n in range(parameters)}
    optimizer = {"state": averages, "param_groups": [{"lr": 1e-3, "params": list(range(parameters))}]}
    torch.save({"model": weights, "optimizer": optimizer}, path)


def seconds(action: Callable[[], object]) -> float:
    gc.collect()
    began = time.process_time()
    kept = action()
    taken = time.process_time() - began
    del kept
    return taken


def main() -> None:
    torch.set_num_threads(1)
    parameters = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.pt"
        write(path, parameters)
        with zipfile.ZipFile(path) as archive:
            pickled = archive.read("many/data.pkl")
        actions: dict[str, Callable[[], object]] = {
            BASE: lambda: Tuples(io.BytesIO(pickled)).load(),
            "torch.load(weights_only=True, mmap=True)": lambda: torch.load(path, weights_only=True, mmap=True),
            "qkvinspect.open": lambda: open_checkpoint(path).close(),
        }
        times: dict[str, list[float]] = {name: [] for name in actions}
        for _ in range(ROUNDS):
            for name, action in actions.items():
                times[name].append(seconds(action))
    base = min(times[BASE])
    print(f"| {3 * parameters:,} tensors, least of {ROUNDS} | seconds | of the first |\n| --- | --- | --- |")
    for name, taken in times.items():
        print(f"| `{name}` | {min(taken):.2f} | {min(taken) / base:.2f} |")


if __name__ == "__main__":
    main()
