"""How fast norms are computed from files in the system's cache, beside what memory gives.

    python tests/benchmarks/engine.py FOLDER

of which every .safetensors is read: all tensors named in_proj_weight, again and again until that takes a while.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from qkvinspect.formats import open_checkpoint
from qkvinspect.stats import Request, stream

BYTES = 256 << 20


def bandwidths(folder: Path, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Name of a file, gigabytes a second, and the ratio to a float32 max over as many bytes in the same round."""
    values = np.ones(BYTES // 4, np.float32)
    for path in sorted(folder.glob("*float*.safetensors")):
        with open_checkpoint(path) as checkpoint:
            infos = [info for name, info in checkpoint.tensors.items() if name.endswith("in_proj_weight")]
            requests = [Request(info, "out_in") for info in infos]
            size = sum(info.nbytes for info in infos)
            speeds: list[float] = []
            shares: list[float] = []
            for number in range(rounds + 1):
                began = time.perf_counter()
                for _ in stream(requests, lambda _: None):
                    pass
                between = time.perf_counter()
                values.max()
                ended = time.perf_counter()
                if number:
                    speeds.append(size / (between - began) / 1e9)
                    shares.append(speeds[-1] / (BYTES / (ended - between) / 1e9))
            yield path.stem, statistics.median(speeds), statistics.median(shares)


if __name__ == "__main__":
    for line in bandwidths(Path(sys.argv[1]), 9):
        print(*line)
