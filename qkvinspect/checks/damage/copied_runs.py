"""Find runs of bytes that a checkpoint holds twice.

A few places of every tensor are marked, those whose word a hash picks, so that equal runs are marked at the same
places. What follows each is hashed, and two places that are alike are compared byte by byte. Of a copy of 4 KiB dozens
of places are marked, of which two would do. So that memory stays flat, fewer are marked of a checkpoint whose attention
is larger than 64 million values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.reading import Array

KEY = 16
"""Bytes that are hashed after a mark."""

_EVERY = 16
_MOST = 1 << 22
_PAIRS = 1 << 18
"""Pairs of places that are looked at: many more are the pattern of a tensor and no copies."""

_MULTIPLIER = 0x9E3779B1
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Marks:
    """Marked places of one tensor.

    Attributes:
        places: offsets in bytes, ascending.
        keys: hashes of what stands there.
    """

    places: NDArray[np.int64]
    keys: NDArray[np.uint64]


def rarity(values: int) -> int:
    """One word in how many is marked, of a checkpoint with so many values."""
    return max(ceil(values / _MOST), _EVERY)


def marked(data: Array, itemsize: int, start: int, every: int) -> Marks:
    """The marks of a run of bytes.

    Args:
        data: bytes, from a multiple of ``itemsize`` of its tensor.
        start: where in the tensor that is.
    """
    if len(data) < KEY:
        return Marks(np.zeros(0, np.int64), np.zeros(0, np.uint64))
    places = _picked(data, itemsize, every)
    places = places[places <= len(data) - KEY]
    windows = np.lib.stride_tricks.sliding_window_view(data, KEY)[places] if len(places) else np.zeros((0, KEY), "u1")
    halves = np.ascontiguousarray(windows).view(np.uint64)
    varied = halves[:, 0] != halves[:, 1]  # runs of one value are found by ``constant_runs``
    keys = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1] * np.uint64(0xC2B2AE3D27D4EB4F)
    return Marks(places[varied].astype(np.int64) + start, keys[varied])


def _picked(data: Array, itemsize: int, every: int) -> NDArray[np.int64]:
    """Offsets whose word the hash picks; single bytes are taken two by two, as they have few values."""
    least = np.uint32((1 << 32) // every)
    if itemsize > 1:
        words = data[: len(data) // itemsize * itemsize].view(f"u{itemsize}")
        if itemsize == 8:
            words = words ^ (words >> np.uint64(32))
        return np.flatnonzero(words.astype(np.uint32) * np.uint32(_MULTIPLIER) < least) * itemsize
    words = data[:-1].astype(np.uint32) | data[1:].astype(np.uint32) << np.uint32(8)
    return np.flatnonzero(words * np.uint32(_MULTIPLIER) < least)


def copies(
    marks: Sequence[Marks],
    reads: Sequence[Callable[[int, int], Array]],
    sizes: Sequence[int],
    itemsizes: Sequence[int],
) -> Iterator[tuple[tuple[int, int], tuple[int, int], int]]:
    """The runs that stand twice: two places, each as (number of the tensor, offset), and the length in bytes.

    Args:
        marks: of each tensor.
        reads: gives bytes of each tensor, from and to an offset.
        sizes: of each tensor, in bytes.
        itemsizes: bytes of a word of each: a run has whole words, whatever bytes beside it are equal by chance.
    """
    done: dict[tuple[int, int, int], int] = {}
    for a, b, distance, place in _alike(marks):
        if place < done.get((a, b, distance), 0):
            continue
        start, stop = _extended((reads[a], reads[b]), (place, place + distance), (sizes[a], sizes[b]))
        done[a, b, distance] = stop
        word = max(itemsizes[a], itemsizes[b])
        start, stop = place - (place - start) // word * word, place + (stop - place) // word * word
        if stop > start:
            yield (a, start), (b, start + distance), stop - start


def _alike(marks: Sequence[Marks]) -> Iterator[tuple[int, int, int, int]]:
    """Marks that are equal and of which another is, as far apart: (tensor, other tensor, distance, place)."""
    keys = np.concatenate([one.keys for one in marks] or [np.zeros(0, np.uint64)])
    where = np.concatenate([one.places for one in marks] or [np.zeros(0, np.int64)])
    which = np.repeat(np.arange(len(marks)), [len(one.keys) for one in marks])
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if not len(same) or len(same) > _PAIRS:
        return
    first, second = order[same], order[same + 1]
    rows = np.stack([which[first], which[second], where[second] - where[first], where[first]], axis=1)
    rows = rows[np.lexsort(rows.T[::-1])]
    next_to = (rows[1:, :3] == rows[:-1, :3]).all(axis=1)
    several = np.concatenate([next_to, [False]]) | np.concatenate([[False], next_to])
    yield from rows[several].tolist()


def _extended(
    reads: tuple[Callable[[int, int], Array], Callable[[int, int], Array]],
    places: tuple[int, int],
    sizes: tuple[int, int],
) -> tuple[int, int]:
    """From where to where, in the first tensor, both hold the same around these places."""
    (read, other), (place, beside) = reads, places
    stop = place
    while (room := min(_CHUNK, sizes[0] - stop, sizes[1] - (stop - place + beside))) > 0:
        offset = stop - place + beside
        same = read(stop, stop + room) == other(offset, offset + room)
        stop += room if same.all() else int(np.argmin(same))
        if not same.all():
            break
    start = place
    while (room := min(_CHUNK, start, start - place + beside)) > 0:
        offset = start - place + beside
        same = (read(start - room, start) == other(offset - room, offset))[::-1]
        start -= room if same.all() else int(np.argmin(same))
        if not same.all():
            break
    return start, stop
