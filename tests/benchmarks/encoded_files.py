"""The weights of one layer of Llama 3 8B in bitsandbytes' 4 bits, read from their file and decoded one by one.

``encodings.py`` prints it after its own table, where the library decodes what lies in memory already. Here each of the
two opens the file, reads a weight, makes its numbers and lets go of them, as whoever looks at a checkpoint does. Sums
of the numbers are compared first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_data import _bnb
from safetensors import safe_open
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.values import ValueTile, value_tiles
from qkvinspect.workers import in_order

SHAPES = ((4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), (14336, 4096), (14336, 4096), (4096, 14336))
"""Of q, k, v, o, gate, up and down."""


def by_us(path: Path, look: Callable[[np.ndarray[Any, Any]], float]) -> list[float]:
    """What ``look`` finds of each weight, tile by tile."""

    def seen(tile: ValueTile) -> float:
        return look(tile.read()[0])

    with open_checkpoint(str(path)) as checkpoint:
        weights = weights_of(checkpoint).encoded
        return [sum(in_order(seen, value_tiles(weights[name].as_matrix("out_in")))) for name in sorted(weights)]


def by_bitsandbytes(path: Path, look: Callable[[np.ndarray[Any, Any]], float]) -> list[float]:
    """The same of whole weights, by its loader's own functions."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    found: list[float] = []
    with safe_open(path, "pt") as file:
        names = sorted(file.keys())
        for name in names:
            if not name.endswith(".weight"):
                continue
            state = {key.removeprefix(f"{name}."): file.get_tensor(key) for key in names if key.startswith(f"{name}.")}
            numbers = dequantize_4bit(file.get_tensor(name), QuantState.from_dict(state, device=torch.device("cpu")))
            found.append(look(numbers.numpy()))
    return found


def compare(folder: Path, runs: int) -> None:
    """Print a table, million values a second: of the processor, all threads together, and of the clock."""
    from bitsandbytes.functional import quantize_4bit

    print("\nA layer of Llama 3 8B (`encoded_files.py`), from its file, million values a second:\n")
    print("| format | qkvinspect, of the processor | bitsandbytes | times | qkvinspect, by the clock | bitsandbytes |")
    print("| --- | --- | --- | --- | --- | --- |")
    generator = torch.Generator().manual_seed(0)
    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            stored: dict[str, torch.Tensor] = {}
            for number, shape in enumerate(SHAPES):
                weight = torch.randn(shape, generator=generator) * 0.02
                stored |= _bnb(f"{number}", *quantize_4bit(weight, quant_type=kind, compress_statistics=nested))
            path = folder / "layer.safetensors"
            save_file(stored, path)
            mine, theirs = (
                np.array(read(path, lambda numbers: float(numbers.sum(dtype=np.float64))))
                for read in (by_us, by_bitsandbytes)
            )
            if not np.allclose(mine, theirs, rtol=1e-9):
                sys.exit(f"{kind}: {mine} and {theirs}")
            _print(f"{kind}{', double quantised' if nested else ''}", path, runs)


def _print(name: str, path: Path, runs: int) -> None:
    count = sum(rows * cols for rows, cols in SHAPES) / 1e6
    taken: dict[Any, list[tuple[float, float]]] = {by_us: [], by_bitsandbytes: []}
    for _ in range(runs):
        for read, times in taken.items():
            processor, clock = time.process_time(), time.perf_counter()
            read(path, lambda numbers: 0.0)
            times.append((time.process_time() - processor, time.perf_counter() - clock))
    (our_work, our_clock), (their_work, their_clock) = (
        (count / min(work for work, _ in times), count / min(clock for _, clock in times)) for times in taken.values()
    )
    print(
        f"| {name} | {our_work:.0f} | {their_work:.0f} | {our_work / their_work:.2f} "
        f"| {our_clock:.0f} | {their_clock:.0f} |",
        flush=True,
    )
