"""The entries of one matrix of similarities in classes, as heads cut it, and how likely they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.evidence.blocksums import BlockSums
from qkvinspect.inspection.evidence.likelihood import Fitted, fitted, scores_of
from qkvinspect.weights.reading import Array


@dataclass(frozen=True, slots=False)
class Term:
    """One matrix of similarities, or two that are correlated, cut into blocks by heads.

    Attributes:
        share: how many neighbouring blocks downwards, and across, share a kv head.
        given: the likelihood is that of the second matrix where the first is known.
        weight: 0.5 for a symmetric matrix, whose entries are counted twice.
    """

    sums: BlockSums
    share: tuple[int, int]
    given: bool = False
    weight: float = 0.5

    def fitted(self, order: Array | None = None, *, thinned: bool = False) -> Fitted:
        """With kv heads (or blocks of them) that carry the same number in ``order`` taken together, if it is given.

        Args:
            thinned: with fewer entries where heads share a kv head, which is seen again in each of them: to weigh
                numbers of heads. Packings are weighed by all entries, of which they have as many whatever is shared.
        """
        if order is None:
            return self._own_thinned if thinned else self._own
        classes = self._classes(self.sums.of(*self._alike(order)))
        return self._of_classes(classes, self._thin if thinned else self.weight)

    @cached_property
    def _own(self) -> Fitted:
        return self._of_classes(self._own_classes, self.weight)

    @cached_property
    def _own_thinned(self) -> Fitted:
        return self._own if self._thin == self.weight else self._of_classes(self._own_classes, self._thin)

    def _of_classes(self, classes: Sequence[tuple[float, Array]], weight: float) -> Fitted:
        return sum((fitted(n * weight, sums * weight, given=self.given) for n, sums in classes), self._paired)

    @property
    def _thin(self) -> float:
        return self.weight / max(self.share)

    def smallest(self) -> float:
        """The number of entries of the smallest class."""
        return min((count for count, _ in self._own_classes if count), default=0.0) * self.weight

    @cached_property
    def without_heads(self) -> Fitted:
        """The fit of the same entries without heads, as many as ``thinned`` ones."""
        return self._without_heads(self._thin)

    @property
    def all_without_heads(self) -> Fitted:
        """The fit of all entries without heads."""
        return self._without_heads(self.weight)

    def _without_heads(self, weight: float) -> Fitted:
        count, moments = self._total
        if self.given:  # which rows are tied depends on the heads: without heads none are
            moments = moments[[1, 3]]
        return fitted(count * weight, moments * weight) + self._paired

    @cached_property
    def _own_classes(self) -> list[tuple[float, Array]]:
        return self._classes(self.sums.of_diagonal() if self.share == (1, 1) else self.sums.of(*self._within()))

    def _classes(self, same: tuple[float, Array]) -> list[tuple[float, Array]]:
        """Count and moments of the blocks of each class; the last class is what the others leave of all.

        Args:
            same: those of the blocks of heads that share a kv head.
        """
        count, moments = self._total
        others = count - same[0], moments - same[1]
        if self.share[0] == 1 or self.share[0] != self.share[1]:
            return [same, others]
        own = self.sums.of_diagonal()
        return [own, (same[0] - own[0], same[1] - own[1]), others]

    def parted(self, order: Array) -> Fitted:
        """With kv heads that carry the same number taken together, but each more tied to itself than to the others."""
        count, moments = self._total
        own, same = self.sums.of(*self._within()), self.sums.of(*self._alike(order))
        classes = own, (same[0] - own[0], same[1] - own[1]), (count - same[0], moments - same[1])
        return sum((self._class(*one) for one in classes), self._paired)

    @cached_property
    def _total(self) -> tuple[float, Array]:
        return float(self.sums.counts.sum()), self.sums.moments.sum(axis=(-2, -1))

    def _within(self) -> tuple[Array, Array]:
        return _blocks_within(len(self.sums.counts) // self.share[0], *self.share)

    def _alike(self, order: Array) -> tuple[Array, Array]:
        return _blocks_alike(tuple(order.tolist()), *self.share)

    def _class(self, count: float, moments: Array) -> Fitted:
        return fitted(count * self.weight, moments * self.weight, given=self.given)

    def scores(self, orders: Array) -> Array:
        """How well kv heads explain the entries that carry the same number in an order: for each of several orders.

        As ``fitted`` for one, less what noise would give, where no heads share a kv head. Each order is another order
        of the same numbers, so that all have classes of the same sizes.

        Returns:
            [orders], or [layers, orders].
        """
        count, moments = self._total
        same = (orders[:, :, None] == orders[:, None, :]).reshape(len(orders), -1).astype(np.float64)
        own = float(same[0] @ self.sums.counts.ravel())
        within = self.sums.moments.reshape(*moments.shape, -1) @ same.T
        found = np.zeros(within.shape[1:]) + np.asarray(self._paired.score)[..., None]
        for size, sums in ((own, within), (count - own, moments[..., None] - within)):
            found += scores_of(size * self.weight, sums * self.weight, given=self.given)
        return found

    @cached_property
    def _paired(self) -> Fitted:
        return fitted(*self.sums.paired) if self.sums.paired else Fitted()


@lru_cache(maxsize=64)
def _blocks_within(kv_heads: int, down: int, across: int) -> tuple[Array, Array]:
    """Where the blocks of two heads that share a kv head are."""
    first = np.arange(kv_heads)[:, None, None]
    return first * down + np.arange(down)[:, None], first * across + np.arange(across)


@lru_cache(maxsize=64)
def _blocks_alike(order: tuple[int, ...], down: int, across: int) -> tuple[Array, Array]:
    """Where the blocks of kv heads with the same number are: the same for all terms and layers."""
    numbers = np.array(order)
    rows, columns = np.nonzero(np.repeat(numbers, down)[:, None] == np.repeat(numbers, across))
    return rows, columns
