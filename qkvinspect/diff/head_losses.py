"""The relative error that quantisation made in each head's parts and circuits, the worst heads first.

A head's circuits are the two matrices that it computes with, ``Q.T @ K`` and ``out @ V`` [in, in]. They are never
made: the inner product of two of them is that of the Gram matrices of their factors, [head_dim, head_dim].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite, sqrt
from statistics import median

import numpy as np

from qkvinspect.diff.difference import HeadLoss, PartDifference
from qkvinspect.diff.ordered_rows import Lines
from qkvinspect.diff.parts import Parts, heads_of
from qkvinspect.layouts.packing import Geometry
from qkvinspect.weights.reading import Array
from qkvinspect.weights.rescaled import Rescaled
from qkvinspect.weights.weight import Encoding, Weight

_PARTS = ("q", "k", "v", "out")
_CIRCUITS = (("qk", "q", "k"), ("ov", "out", "v"))
_LARGEST = 1 << 24  # values of a head's factor that are held at once


def quantised(parts: Iterable[Lines]) -> bool:
    """Whether any of the weights is quantised."""
    encoded = (lines for lines in parts if lines.weight.encoding is not None and not _plain(lines.weight.encoding))
    return any(lines.slack(range(1), range(1)) is not None for lines in encoded)


def _plain(encoding: Encoding) -> bool:
    """Whether it is made of plain numbers, of which only scales were undone."""
    return isinstance(encoding, Rescaled) and encoding.plain


def head_losses(layer: str, a: Parts, b: Parts, found: Sequence[PartDifference], sizes: Geometry) -> list[HeadLoss]:
    """Every head of a layer of which both sides are compared head by head.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    by_name = {part.name: part.heads for part in found if part.name in _PARTS and part.heads}
    losses: list[HeadLoss] = []
    floors = {name: max(_rounding(side[name].weight) for side in (a, b)) for name in by_name}
    floors |= {name: floors[left] + floors[right] for name, left, right in _CIRCUITS if {left, right} <= floors.keys()}
    held = [_RowsOnce(side, sizes) for side in (a, b)]
    for head in range(sizes.num_heads):
        errors: dict[str, float] = {}
        beyond, nonfinite, steps = 0, 0, 0.0
        for name, heads in by_name.items():
            one = heads[_of(head, len(heads), sizes)]
            errors[name] = inf if one.nonfinite else one.relative_l2 or 0.0
            beyond += one.changed
            nonfinite += one.nonfinite
            steps = max(steps, one.steps)
        for circuit, left, right in _CIRCUITS:
            if {left, right} <= by_name.keys():
                errors[circuit] = inf if nonfinite else _circuit(held, (left, right), head)
        losses.append(HeadLoss(layer, head, errors, beyond, steps, floors))
    return losses


def worst_first(losses: Sequence[HeadLoss]) -> tuple[HeadLoss, ...]:
    """Heads whose errors rounding does not explain first, then by the error relative to that of their peers.

    Where most heads of a layer have such errors (GPTQ makes up for the error of one column in others), it counts by
    how many steps the worst row of a head is off, and of its peers. Errors that the rounding of the stored numbers
    explains, as of a part that was not quantised, are no larger than one another.
    """
    layers: dict[str, list[HeadLoss]] = {}
    for loss in losses:
        layers.setdefault(loss.layer, []).append(loss)
    usual = {layer: _usual(some) for layer, some in layers.items()}
    moved = {layer: median(loss.beyond for loss in some) > 0 for layer, some in layers.items()}
    steps = {layer: median(loss.steps for loss in some) for layer, some in layers.items()}

    def rank(loss: HeadLoss) -> tuple[bool, float, float]:
        errors, peers = loss.errors, usual[loss.layer]
        ratios = [_over(error, peers[name], loss.floors[name]) for name, error in errors.items()]
        if moved[loss.layer]:
            ratios.append(loss.steps / steps[loss.layer])
        return not moved[loss.layer] and loss.beyond > 0, max(ratios, default=0.0), max(errors.values(), default=0.0)

    return tuple(sorted(losses, key=rank, reverse=True))


def _usual(losses: Sequence[HeadLoss]) -> Mapping[str, float]:
    """The median error of each figure over the heads of a layer."""
    names = dict.fromkeys(name for loss in losses for name in loss.errors)
    return {name: median(loss.errors[name] for loss in losses if name in loss.errors) for name in names}


def _over(error: float, usual: float, floor: float) -> float:
    if not isfinite(error) or not isfinite(usual):
        return inf
    return max(error, floor) / max(usual, floor)


def _rounding(weight: Weight) -> float:
    """The relative error of the coarsest numbers that a weight is made of; codes are no numbers."""
    return max((info.dtype.rounding for info in weight.stored), default=0.0)


def _of(head: int, count: int, sizes: Geometry) -> int:
    """Which of the heads of a part a query head uses."""
    return head if count == sizes.num_heads else head * count // sizes.num_heads


def _circuit(held: Sequence[_RowsOnce], parts: tuple[str, str], head: int) -> float:
    """The relative error of a product: |B - A| / |A|, Frobenius."""
    left, right = ([side.of(name, head) for side in held] for name in parts)
    if any(len(some) == 0 or some.shape != left[0].shape for some in left) or left[0].shape[0] != right[0].shape[0]:
        return 0.0
    with np.errstate(all="ignore"):
        aa = float(np.sum((left[0] @ left[0].T) * (right[0] @ right[0].T)))
        bb = float(np.sum((left[1] @ left[1].T) * (right[1] @ right[1].T)))
        ab = float(np.sum((left[0] @ left[1].T) * (right[0] @ right[1].T)))
    gap = max(aa + bb - 2 * ab, 0.0)
    return sqrt(gap / aa) if aa > 0 else (inf if gap else 0.0)


class _RowsOnce:
    """The rows of heads of one side, each read once: query heads that share a head of K and V follow one another."""

    def __init__(self, parts: Parts, sizes: Geometry) -> None:
        self._parts, self._sizes = parts, sizes
        self._heads = {name: heads_of(name, parts[name], sizes) for name in _PARTS if name in parts}
        self._last: dict[str, tuple[int, Array]] = {}

    def of(self, name: str, head: int) -> Array:
        """The rows of a part that a query head uses: float64 [head_dim, in]; none where they do not fit in memory."""
        heads = self._heads[name]
        place = _of(head, len(heads), self._sizes)
        known = self._last.get(name)
        if known is None or known[0] != place:
            known = self._last[name] = place, _rows(self._parts[name], heads[place])
        return known[1]


def _rows(lines: Lines, run: range) -> Array:
    if not len(run) or len(run) * lines.cols > _LARGEST:
        return np.zeros((0, 0))
    return lines.values(lines.words(run, range(lines.cols))).astype(np.float64)
