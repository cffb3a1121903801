"""Vectors that a graph uses in several places and stores once, under one of their names.

Optimisers of ONNX keep one of equal initialisers: of norms that are all ones, and of biases that are all zeros. What
another file holds under a name of its own is there all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.computed_rows import ComputedShared
from qkvinspect.diff.difference import SAME
from qkvinspect.diff.parts import Parts, whole
from qkvinspect.diff.tally import compare
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.report import Report
from qkvinspect.weights.weight import Weight


class SharedTensors:
    """Those of one side, each for as many others as there are places without a name."""

    def __init__(self, report: Report) -> None:
        every = (one for one in report.checkpoint.computed if isinstance(one, ComputedShared))
        self._left = {one.weight: one.more for one in every if one.weight in report.weights}
        self._weights = report.weights
        self.taken = 0

    def like(self, weight: Weight) -> Weight | None:
        """One that holds the same values, which then counts as one fewer; None where there is none.

        Raises:
            CheckpointError: the bytes cannot be read.
        """
        if len(weight.shape) != 1:
            return None
        for name, left in self._left.items():
            other = self._weights[name]
            if left and other.shape == weight.shape and _same(weight, other):
                self._left[name] -= 1
                self.taken += 1
                return other
        return None

    def complete(self, parts: Parts, other: Parts) -> Parts:
        """The parts of a layer, with biases that only the other side has under a name of the layer."""
        missing = [name for name in other if name.endswith("_bias") and name not in parts]
        found = {name: shared for name in missing if (shared := self.like(other[name].weight)) is not None}
        if any(len(other[name].runs) != 1 or other[name].rows != other[name].weight.numel for name in found):
            return parts
        return parts | {name: replace(other[name], weight=one, matrix=whole(one).matrix) for name, one in found.items()}


def _same(one: Weight, other: Weight) -> bool:
    return compare(whole(one), whole(other), (), None, lambda _: None)[0].status in SAME


def about_shared(shared: Sequence[SharedTensors]) -> Iterator[str]:
    """How many were found so."""
    for side, other, one in (("A", "B", shared[0]), ("B", "A", shared[1])):
        if one.taken:
            some = f"{one.taken} tensors of {other} are" if one.taken > 1 else f"one tensor of {other} is"
            text = f"{some} in {side} under another name: its graph uses equal vectors in several places"
            yield f"{text}, and stores them once"
