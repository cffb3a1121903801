"""Find runs of bytes that repeat one stored word: blocks that were never written, or lost and read as zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from qkvinspect.weights.reading import Array

GRID = 256
"""Bytes that are looked at together: a run of twice as many holds such a block whole."""


def constant_blocks(data: Array, itemsize: int) -> list[tuple[int, int]]:
    """The blocks of the grid whose words are all one, neighbours with the same word joined: (start, stop) in bytes."""
    usable = len(data) // GRID * GRID
    words = data[:usable].view(f"u{itemsize}").reshape(-1, GRID // itemsize)
    if not len(words):
        return []
    likely = np.flatnonzero((words[:, 0] == words[:, 1]) & (words[:, 0] == words[:, -1]))
    sure = likely[(words[likely] == words[likely, :1]).all(axis=1)]
    found: list[tuple[int, int]] = []
    last = None
    for block in sure.tolist():
        word = words[block, 0]
        if found and found[-1][1] == block * GRID and word == last:
            found[-1] = found[-1][0], (block + 1) * GRID
        else:
            found.append((block * GRID, (block + 1) * GRID))
        last = word
    return found


def joined(runs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Runs of neighbouring pieces as one."""
    held: tuple[int, int] | None = None
    for start, stop in runs:
        if held is not None and held[1] == start:
            held = held[0], stop
            continue
        if held is not None:
            yield held
        held = start, stop
    if held is not None:
        yield held


def exact(read: Callable[[int, int], Array], run: tuple[int, int], size: int, itemsize: int) -> tuple[int, int]:
    """The same run with what its last and first block share with it.

    Args:
        read: gives bytes from and to an offset.
        size: of the tensor, in bytes.
    """
    start, stop = run
    word = read(start, start + itemsize)
    before = read(max(start - GRID, 0), start).reshape(-1, itemsize)
    after = read(stop, min(stop + GRID, size) // itemsize * itemsize).reshape(-1, itemsize)
    equal = [(side == word).all(axis=1) for side in (before[::-1], after)]
    back, on = (int(np.argmin(side)) if not side.all() else len(side) for side in equal)
    return start - back * itemsize, stop + on * itemsize
