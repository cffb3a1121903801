"""Whether two checkpoints hold the same numbers, all of them: what ``identical`` stands on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from qkvinspect.checkpoint import BLOCK
from qkvinspect.inspection.report import Part
from qkvinspect.lineage.beside_attention import tensors_beside
from qkvinspect.lineage.relatives import Relative
from qkvinspect.weights.values import columns, rows_of_values
from qkvinspect.weights.weight import Matrix


def values_equal(a: Relative, b: Relative) -> bool | str:
    """Compare every number of both, some rows at a time; where tensors of one shape differ, the name of the first.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if len(a.layers) != len(b.layers) or a.left_out != b.left_out:
        return False
    for one, other in zip(a.layers, b.layers, strict=True):
        for ours, theirs in zip((*one.parts, one.output), (*other.parts, other.output), strict=False):
            if ours is None or theirs is None:
                return False
            if not _part_equal(ours, theirs):
                alike = ours.weight.shape == theirs.weight.shape and (ours.bias is None) == (theirs.bias is None)
                return theirs.weight.name if alike else False
    mine, its = tensors_beside(a), tensors_beside(b)
    both = [name for name in mine if name in its and mine[name].shape == its[name].shape]
    for name in both:
        if not _equal(mine[name].as_matrix("out_in"), its[name].as_matrix("out_in")):
            return name
    return len(both) == len(mine) == len(its)


def _part_equal(a: Part, b: Part) -> bool:
    if a.name != b.name or [len(head) for head in a.heads] != [len(head) for head in b.heads]:
        return False
    one, other = (part.weight.as_matrix(part.orientation) for part in (a, b))
    if a.name == "out":
        if a.heads != b.heads:
            return bool(np.array_equal(a.numpy(), b.numpy()))
        return _equal(one, other)
    for ours, theirs in zip(a.heads, b.heads, strict=True):
        if not np.array_equal(rows_of_values(one, [ours]), rows_of_values(other, [theirs])):
            return False
    if (a.bias is None) != (b.bias is None):
        return False
    if a.bias is None or b.bias is None:
        return True
    biases = (rows_of_values(part.bias.as_matrix("out_in"), part.bias_heads) for part in (a, b) if part.bias)
    return all(np.array_equal(left, right) for left, right in pairwise(biases))


def _equal(a: Matrix, b: Matrix) -> bool:
    if (a.rows, columns(a)) != (b.rows, columns(b)):
        return False
    return all(np.array_equal(rows_of_values(a, [rows]), rows_of_values(b, [rows])) for rows in _runs(a))


def _runs(matrix: Matrix) -> Iterator[range]:
    step = max(BLOCK // (8 * max(columns(matrix), 1)), 1)
    yield from (range(first, min(first + step, matrix.rows)) for first in range(0, matrix.rows, step))
