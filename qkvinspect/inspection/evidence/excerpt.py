"""Some rows of some parts of a layer: enough to see that it has the heads of its stack, at a fraction of the cost."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.evidence.index import index_of
from qkvinspect.inspection.evidence.ways import Variants
from qkvinspect.inspection.report import Attention
from qkvinspect.weights.reading import Array


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Which rows are taken.

    Attributes:
        parts: of these parts alone, and nothing of the output projection.
        share: one in so many of their heads, the first ones: the rows of a few heads tell more than as many of all.
    """

    parts: str
    share: int = 1

    def count(self, attention: Attention) -> int:
        """How many rows it has of a layer before a stride is taken."""
        return sum(part.shape[0] for part in attention.parts if part.name in self.parts) // self.share

    def rows(self, attention: Attention, stride: int) -> Array | None:
        """The rows, in the order of the file, by their numbers among all that a stride leaves; None where the heads are
        not kept whole or share a kv head in several.
        """
        index = index_of(attention, stride)
        if index is None or not index.keys() >= set(self.parts):
            return None
        heads = {len(index[part]) for part in self.parts}
        if any(count % self.share for count in heads) or (self.share > 1 and len(heads) > 1):
            return None
        rows = np.concatenate([index[part][: len(index[part]) // self.share].ravel() for part in self.parts])
        rows.sort()
        return rows

    def tells(self, own: Variants, heads: int, stride: int) -> bool:
        """Whether it shows that layers have so many heads and no other number.

        All others must divide the same rows, or be so few that these are rows of one head, which is to have none; or
        fewer, such that heads that are parts of these, and are made of the ones in question, must seem likelier.
        """
        found = {count: self.rows(cut, stride) for count, cut in own.items() if index_of(cut, stride) is not None}
        said = found.get(heads)
        if said is None:
            return False
        there = {n for n, rows in found.items() if rows is not None and n > self.share and np.array_equal(rows, said)}
        return heads in there and all(n in there or self._is_covered(n, heads, there) for n in found)

    def _is_covered(self, count: int, heads: int, there: Iterable[int]) -> bool:
        return self.share % count == 0 or any(n % count == 0 and heads % n == 0 and n < heads for n in there)
