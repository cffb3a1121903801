"""Sums of squares of rows by numpy, numkong and simsimd: how fast on one core, and how right.

    python tests/benchmarks/sums.py | tee tests/benchmarks/SUMS.md

Needs numkong and simsimd. Rows of normal values in a block that stays in the processor's cache, against float64.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import numkong
import numpy as np
import simsimd

from qkvinspect.dtypes import DTYPES
from qkvinspect.weights.reading import numbers
from qkvinspect.weights.sums_of_squares import row_squares

BYTES = 4 << 20
ROUNDS = 15
NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2"}
Sums = Callable[[np.ndarray], Any]


def words_of(name: str, cols: int) -> np.ndarray:
    generator = np.random.default_rng(cols)
    values = generator.standard_normal((BYTES * 8 // DTYPES[name].bits // cols, cols), np.float32) * np.float32(0.02)
    if name == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    if name == "float16":
        return values.astype(np.float16).view(np.uint16)
    return values.view(np.uint32) if name == "float32" else generator.integers(0, 120, values.shape, np.uint8)


def ways(name: str) -> dict[str, Sums]:
    view = np.float32 if name == "float32" else np.float16 if name == "float16" else None
    code = NAMES[name]
    found: dict[str, Sums] = {
        "numpy": lambda words: row_squares(words, DTYPES[name])[0],
        "numkong.norm": lambda words: np.square(numkong.norm(words.view(view) if view else words, axis=1, dtype=code)),
        "numkong.dot": lambda words: numkong.dot(*[words.view(view) if view else words] * 2, code),
    }
    if code in ("f32", "f16", "bf16"):
        found["simsimd.dot"] = lambda words: simsimd.dot(*[words.view(view) if view else words] * 2, code)
    return found


def least(work: Callable[[], Any]) -> float:
    """Seconds of the processor; the least of some rounds, as other programs only ever take some away."""
    taken: list[float] = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return min(taken)


def together(work: Sums, words: np.ndarray, threads: int) -> float:
    """GB/s that threads reach at the same time, each with rows of its own: more where they need not wait for Python."""

    def some(own: np.ndarray) -> None:
        for _ in range(10):
            work(own)

    taken: list[float] = []
    for _ in range(ROUNDS):
        every = [Thread(target=some, args=(words.copy(),)) for _ in range(threads)]
        began = time.perf_counter()
        for thread in every:
            thread.start()
        for thread in every:
            thread.join()
        taken.append(time.perf_counter() - began)
    return threads * 10 * words.nbytes / min(taken) / 1e9


def main() -> None:
    ones = np.ones(BYTES // 4, np.float32)
    memory = BYTES / least(ones.max) / 1e9
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numkong", "simsimd"))
    print(f"One core; {libraries}; a float32 `max` of numpy: {memory:.1f} GB/s.\n")
    print("| dtype | columns | by | GB/s | of `max` | largest relative error |\n| --- | --- | --- | --- | --- | --- |")
    for name in NAMES:
        for cols in (1000, 4096):
            words = words_of(name, cols)
            exact = np.square(numbers(words, DTYPES[name])[0].astype(np.float64)).sum(axis=1)
            for by, work in ways(name).items():
                error = float(np.abs(np.asarray(work(words), np.float64).ravel() / exact - 1).max())
                speed = words.nbytes / least(lambda work=work, words=words: work(words)) / 1e9
                print(f"| {name} | {cols} | {by} | {speed:.1f} | {speed / memory:.2f} | {error:.0e} |", flush=True)
    print("\n| rows of 1024 | by | one thread, GB/s by the clock | two threads together |\n| --- | --- | --- | --- |")
    for name in NAMES:
        for by in ("numkong.norm", "numkong.dot"):
            work, words = ways(name)[by], words_of(name, 1024)
            speeds = " | ".join(f"{together(work, words, count):.1f}" for count in (1, 2))
            print(f"| {name} | {by} | {speeds} |", flush=True)
    print("\n| what float8_e5m2 calls | numkong takes for |\n| --- | --- |")
    for word, called in ((0x7C, "infinity"), (0x7D, "NaN"), (0x7F, "NaN")):
        taken = np.asarray(numkong.dot(*[np.full((1, 1), word, np.uint8)] * 2, "e5m2")).item()
        print(f"| {called} (0x{word:X}) | {taken:g} |")


if __name__ == "__main__":
    main()
