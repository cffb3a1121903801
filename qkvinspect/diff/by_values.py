"""Find the partners of tensors outside attention by what they hold, where a converter gave them names of its own.

llama.cpp calls ``mlp.gate_proj`` ``ffn_gate``, and something else in other architectures: a list of names would always
lack some. Two tensors of one shape whose numbers are alike, but for rounding, are one tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Orientation
from qkvinspect.errors import LayoutError
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.weight import Weight

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

_MOST = 4096
"""Tensors of a side that are looked at: all of them are read a little."""

_ROWS = 4
_COLUMNS = 1024
_ROUNDED = 0.3
"""The greatest distance, by the norm, of a tensor and what rounding to two bits makes of it."""

_EXACT = 0.01
"""The same where nothing is rounded to less than 8 bits: llama.cpp keeps vectors in float32."""

_OTHERS = 3.0
"""How many times farther away the next nearest one must be."""


Held = Weights | Mapping[str, Weight]


def alike(
    a: Held, left: Collection[str], b: Held, right: Collection[str], *, more: float = 0, turned: bool = False
) -> Iterator[tuple[str, str]]:
    """Pairs of names of A and of B, each name in one pair at most, whose tensors are each other's nearest.

    Args:
        left, right: the names to look for; tensors that are equal throughout, as new norms are, go in order.
        more: by how much each number of B is larger; then only vectors are looked at, and no rounding is allowed for.
        turned: whether B holds the matrices of A transposed; then only matrices are looked at.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if max(len(left), len(right)) > _MOST:
        return
    shapes: dict[tuple[int, ...], tuple[list[str], list[str]]] = {}
    for side, (weights, names) in enumerate(((a, left), (b, right))):
        for name in names:
            shape = weights[name].shape
            if not turned or len(shape) == 2:
                shapes.setdefault(shape[::-1] if turned and side == 0 else shape, ([], []))[side].append(name)
    for shape, (ours, theirs) in shapes.items():
        if not ours or not theirs or not all(shape) or (more and len(shape) != 1):
            continue
        one, other = _sketches(a, ours, "in_out" if turned else "out_in") + more, _sketches(b, theirs)
        apart = _distances(one, other)
        yield from ((ours[i], theirs[j]) for i, j in _nearest(apart, _EXACT if more else _ROUNDED))


def _distances(one: Array, other: Array) -> Array:
    """Of each row of the one from each of the other, in shares of the longer one; infinite where that is no number."""
    import numpy as np

    with np.errstate(all="ignore"):  # squares beyond float64
        size = np.maximum(np.linalg.norm(one, axis=1)[:, None], np.linalg.norm(other, axis=1)[None])
        apart = np.stack([np.linalg.norm(other - row, axis=1) for row in one]) / np.where(size > 0, size, 1)
    apart[np.isnan(apart)] = np.inf
    return apart


def _nearest(apart: Array, most: float) -> Iterator[tuple[int, int]]:
    """Of distances [ours, theirs] those pairs that stand out, if they are no more than that; equal ones in order."""
    import numpy as np

    while apart.size and np.isfinite(apart).any():
        i, j = (int(place) for place in np.unravel_index(np.argmin(apart), apart.shape))
        if not apart[i, j] < most:
            return
        rivals = np.concatenate([np.delete(apart[i], j), np.delete(apart[:, j], i)])
        nearest = rivals.min(initial=np.inf)
        if apart[i, j] == 0 or nearest > _OTHERS * apart[i, j]:
            yield i, j
        apart[i], apart[:, j] = np.inf, np.inf


def _sketches(weights: Held, names: Sequence[str], orientation: Orientation = "out_in") -> Array:
    """A few rows of each, float64 [names, values]; NaN for what cannot be read as rows and columns."""
    import numpy as np

    rows = [_sketch(weights[name], orientation) for name in names]
    width = max(len(row) for row in rows)
    return np.stack([row if len(row) == width else np.full(width, np.nan) for row in rows])


def _sketch(weight: Weight, orientation: Orientation) -> Array:
    import numpy as np

    from qkvinspect.weights.values import rows_of_values

    try:
        matrix = weight.as_matrix(orientation)
        count = min(matrix.rows, _ROWS)
        runs = [range(at, at + 1) for at in (matrix.rows * step // count for step in range(count))]
        with np.errstate(invalid="ignore"):  # signalling NaN
            return rows_of_values(matrix, runs)[:, :_COLUMNS].astype(np.float64).ravel()
    except LayoutError:
        return np.full(1, np.nan)
