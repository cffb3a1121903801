"""How fast norms are computed from files in the system's cache, beside what memory gives.

    python tests/benchmarks/engine.py FOLDER

of which every .safetensors is read: all tensors named in_proj_weight, again and again until that takes a while.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from pathlib import Path

import numpy as np
from zlib_ng.zlib_ng import crc32

sys.path.insert(0, str(Path(__file__).parents[2]))

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.norms import StreamRequest, stream
from qkvinspect.weights.weight import plain

BYTES = 256 << 20
PIECE = 1 << 20


def bandwidths(folder: Path, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Name of a file, gigabytes a second, and the ratio to a float32 max over as many bytes in the same round.

    Beside them what reading alone allows: the same bytes by as many threads, each into one buffer.
    """
    values = np.ones(BYTES // 4, np.float32)
    for path in sorted(folder.glob("*float*.safetensors")):
        with open_checkpoint(path) as checkpoint:
            infos = [info for name, info in checkpoint.tensors.items() if name.endswith("in_proj_weight")]
            works = {path.stem: norms, f"{path.stem}, read only": read}
            if path.stem == "float32":
                works["float32, read and its checksum"] = checksum  # what a .pt needs besides the norms
            for name, work in works.items():
                speeds: list[float] = []
                shares: list[float] = []
                for number in range(rounds + 1):
                    began = time.perf_counter()
                    work(path, infos)
                    between = time.perf_counter()
                    values.max()
                    ended = time.perf_counter()
                    if number:
                        speeds.append(sum(info.nbytes for info in infos) / (between - began) / 1e9)
                        shares.append(speeds[-1] / (BYTES / (ended - between) / 1e9))
                yield name, statistics.median(speeds), statistics.median(shares)


def norms(_: Path, infos: Sequence[TensorInfo]) -> None:
    deque(stream([StreamRequest(plain(info), "out_in") for info in infos], lambda _: None), maxlen=0)


def checksum(path: Path, infos: Sequence[TensorInfo]) -> None:
    """The CRC of the bytes of some tensors."""
    read(path, infos, crc32)


def read(path: Path, infos: Sequence[TensorInfo], look: Callable[[memoryview], object] = len) -> None:
    """The bytes of some tensors, not looked at."""
    threads = os.cpu_count() or 1
    descriptor = os.open(path, os.O_RDONLY)

    def some(first: int) -> None:
        buffer = memoryview(mmap(-1, PIECE + 64))
        for info in infos[first::threads]:
            for start in range(0, info.nbytes, PIECE):
                offset = info.region.start + start
                piece = buffer[offset % 64 :][: min(PIECE, info.nbytes - start)]  # where copying is quick
                os.preadv(descriptor, [piece], offset)
                look(piece)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, range(threads)))
    os.close(descriptor)


if __name__ == "__main__":
    for line in bandwidths(Path(sys.argv[1]), 9):
        print(*line)
