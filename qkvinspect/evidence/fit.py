"""How well a hypothesis about heads explains one layer.

A head uses W_Q and W_K only through the product W_Q^T W_K, and W_V and W_O only through W_O W_V. Under gradient
descent with such a product the two factors stay balanced (Du, Hu, Lee 2018; Kunin et al. 2021), and an optimizer
or an initial state that breaks the balance still moves all rows of a head together. So the similarities of rows
follow one law within a head and another across heads, and those of Q's rows are tied to those of K's, those of
V's to those of the output projection's columns. Every entry of these matrices of similarities is given a normal
distribution by its class (same head, heads that share a kv head, others), tied pairs a joint one; the likelihood
of all entries under a hypothesis is its score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkvinspect.evidence.blocksums import BlockSums, block_sums, classes, cross_sums, log_likelihood
from qkvinspect.evidence.sample import Sample

Array = NDArray[Any]
Index = Mapping[str, Array]
"""For each part, the sampled rows of its heads: int [heads, rows of a head]."""


@dataclass(frozen=True, slots=True)
class Term:
    """One matrix of similarities, or two that are tied, cut into blocks by heads.

    Attributes:
        share: how many neighbouring blocks downwards, and across, share a kv head.
        given: the likelihood is that of the second matrix where the first is known.
        weight: 0.5 for a symmetric matrix, whose entries are counted twice.
    """

    sums: BlockSums
    share: tuple[int, int]
    given: bool = False
    weight: float = 0.5

    def log_likelihood(self, order: Array) -> float:
        """With kv heads (or blocks of them) that carry the same number in ``order`` taken together."""
        down, across = (np.repeat(order, share) for share in self.share)
        same = down[:, None] == across[None]
        masks = [same, ~same]
        if self.share[0] > 1 and self.share[0] == self.share[1]:
            own = np.eye(len(down), dtype=bool)
            masks = [own, same & ~own, ~same]
        return self.weight * classes(self.sums, masks, given=self.given) + self._paired

    @property
    def parameters(self) -> int:
        """How many numbers are fitted."""
        each = 3 if self.given else len(self.sums.moments)
        kinds = 3 if self.share[0] > 1 and self.share[0] == self.share[1] else 2
        return each * kinds + 2 * (self.sums.paired is not None)

    def without_heads(self) -> tuple[float, int]:
        """The log-likelihood if there were no heads, and by how many parameters fewer it has."""
        everything = np.ones(self.sums.counts.shape, bool)
        count, moments = self.sums.of(everything)
        if self.given:  # which rows are tied depends on the heads: without heads none are
            return self.weight * log_likelihood(count, moments[[1, 3]]), 4
        lost = {2: 4 if self.share[0] > 1 and self.share[0] == self.share[1] else 2, 5: 5}[len(moments)]
        return self.weight * log_likelihood(count, moments) + self._paired, lost

    @property
    def _paired(self) -> float:
        return log_likelihood(*self.sums.paired) if self.sums.paired else 0.0


@dataclass(frozen=True, slots=True)
class Fit:
    """A hypothesis applied to one layer."""

    terms: tuple[Term, ...]
    kv_heads: int
    share: int

    @property
    def log_likelihood(self) -> float:
        """Of every entry; comparable between hypotheses that use the same entries."""
        return self.grouped(np.arange(self.kv_heads))

    def grouped(self, order: Array) -> float:
        """As if the kv heads that carry the same number in ``order`` were one head."""
        return sum(term.log_likelihood(order) for term in self.terms)

    def gain(self, order: Array | None = None) -> float:
        """Twice the gain in log-likelihood over no heads, less what chance gives: about 0 on noise."""
        total = self.log_likelihood if order is None else self.grouped(order)
        without = [term.without_heads() for term in self.terms]
        return 2 * (total - sum(value for value, _ in without)) - sum(lost for _, lost in without)

    @property
    def parameters(self) -> int:
        """How many numbers are fitted."""
        return sum(term.parameters for term in self.terms)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the gain: on noise its variance is twice this."""
        return sum(lost for _, lost in (term.without_heads() for term in self.terms))


def fit(sample: Sample, index: Index) -> Fit:
    """Cut a layer into the heads that a hypothesis says.

    Args:
        index: ``q``, ``k``, ``v`` as far as the layer has them, ``o`` for the columns of the output projection.
    """
    kv_heads = len(index["k"] if "k" in index else index["v"])
    query_heads = max(len(rows) for rows in index.values())
    share = query_heads // kv_heads
    matrices = {part: _among(sample.out if part == "o" else sample.rows, rows) for part, rows in index.items()}
    terms: list[Term] = []
    for wide, narrow in (("q", "k"), ("o", "v")):
        terms += _tied(index, matrices, wide, narrow, share)
    if sample.joint:
        for first, second in combinations([part for part in ("q", "k", "v") if part in index], 2):
            if np.array_equal(index[first], index[second]):
                continue
            block = sample.rows[np.ix_(index[first].ravel(), index[second].ravel())]
            own = (len(index[first]) // kv_heads, len(index[second]) // kv_heads)
            sums = cross_sums(block, index[first].shape[1], index[second].shape[1], own[0])
            terms.append(Term(sums, own, weight=1.0))
    return Fit(tuple(terms), kv_heads, share)


def _among(scores: Array | None, rows: Array) -> Array | None:
    flat = rows.ravel()
    return None if scores is None else scores[np.ix_(flat, flat)]


def _tied(index: Index, matrices: Mapping[str, Array | None], wide: str, narrow: str, share: int) -> list[Term]:
    """Q with K, or the output projection with V: tied where both are there."""
    first, second = matrices.get(wide), matrices.get(narrow)
    tied = first is not None and second is not None and len(first) == share * len(second)
    if not tied:  # one of them is missing, or has rows that the other has not (a rotary share of its own)
        found = ((wide, first, share), (narrow, second, 1))
        return [Term(block_sums(m, index[part].shape[1]), (by, by)) for part, m, by in found if m is not None]
    assert first is not None
    assert second is not None
    width = index[wide].shape[1]
    if share == 1:
        return [Term(block_sums(first, width, second=second), (1, 1))]
    return [
        Term(block_sums(first, width), (share, share)),
        Term(block_sums(_stack(first, share, width), width, second=second), (1, 1), given=True),
    ]


def _stack(scores: Array, share: int, width: int) -> Array:
    """Sum over the query heads that share a kv head: what stays balanced with that kv head."""
    kv_heads = len(scores) // (share * width)
    parted = scores.reshape(kv_heads, share, width, kv_heads, share, width)
    return np.einsum("arxbry->axby", parted).reshape(kv_heads * width, kv_heads * width)
