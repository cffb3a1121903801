"""Runs that are no damage, as they follow the rows, the heads or the layers of a model: padding, and widened heads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from qkvinspect.checks.damage.stored_bytes import StoredTensor
from qkvinspect.late_pattern import late_pattern

Run = tuple[int, int]
"""First byte, and that after the last."""

Copy = tuple[tuple[int, int], tuple[int, int], int]
"""Two places, each as (number of the tensor, offset), and the length in bytes."""

Placed = tuple[StoredTensor, Run]

_NUMBER = late_pattern(r"\d+")
_LEAST = 4
"""Rows that hold the same copy before it is one of columns."""


def evenly_spaced(tensor: StoredTensor, runs: Sequence[Run]) -> bool:
    """Whether runs of whole rows follow each other at one distance through all of the tensor, as padded heads do."""
    lengths = {stop - start for start, stop in runs}
    starts = [start for start, _ in runs]
    distances = {second - first for first, second in pairwise(starts)}
    if len(lengths) > 1 or len(distances) > 1 or tensor.packed:
        return False
    (distance,) = distances
    whole = not any(edge % tensor.row_bytes for run in runs for edge in run)
    return whole and distance * len(runs) == tensor.nbytes


def in_most_layers(
    tensors: Sequence[StoredTensor], runs: Sequence[tuple[StoredTensor, Run]]
) -> list[tuple[StoredTensor, Run]]:
    """Runs of whole rows that most tensors of one name, of two layers and more, have at the same place."""
    every = Counter(without_numbers(tensor) for tensor in tensors)
    found = Counter((without_numbers(tensor), run) for tensor, run in runs)
    return [
        (tensor, run)
        for tensor, run in runs
        if 1 < found[without_numbers(tensor), run] > every[without_numbers(tensor)] / 2
        and not any(edge % tensor.row_bytes for edge in run)
        and not tensor.packed
    ]


def by_intent(tensors: Sequence[StoredTensor], copies: Sequence[Copy]) -> set[tuple[int, int]]:
    """(tensor, distance) of copies that most rows have within them: columns stand twice, as those of widened heads."""
    own = [(a, first, second - first, size) for (a, first), (b, second), size in copies if a == b]
    found: Counter[tuple[int, int]] = Counter()
    for number, first, distance, size in own:
        row = tensors[number].row_bytes
        found[number, distance] += size < row and first // row == (first + distance) // row
    least = {number: max(_LEAST, tensors[number].nbytes // tensors[number].row_bytes // 2) for number, _ in found}
    return {key for key, count in found.items() if count >= least[key[0]]}


def without_numbers(tensor: StoredTensor) -> str:
    """Its name, which it shares with those of other layers."""
    return _NUMBER.sub("#", tensor.info.name)
