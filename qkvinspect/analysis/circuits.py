"""The circuits QK and OV of each head, on thin factors only, of all heads in one call.

A head's QK circuit is W_Q^T W_K, [in, in] but of rank head_dim; OV is W_O W_V. With the thin QR decompositions
W_Q^T = A R and W_K^T = B S the singular values of W_Q^T W_K are those of R S^T, which is small. The Gram matrices of
all heads give R (by Cholesky, where that is exact enough) and the inner products of any two heads' circuits. Nothing
is computed before it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qkvinspect.analysis.figures import Similar, Spectrum
from qkvinspect.analysis.spectra import reduced, singular_values, spectra_of, spectrum_of_gram
from qkvinspect.weights.reading import Array

_WELL = 1e3
"""A Gram matrix squares the condition number: heads that have a greater one go through QR."""

_LEAST = 1e-280
"""Squares below lose digits."""

Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Factor:
    """One side of a circuit.

    Attributes:
        rows: of all heads one after another, [heads * width, in].
        heads: how many.
    """

    rows: Array
    heads: int

    @property
    def stack(self) -> Array:
        """[heads, width, in]."""
        return self.rows.reshape(self.heads, len(self.rows) // self.heads, self.rows.shape[1])


class CircuitSide:
    """A factor of a circuit, with everything that is computed from it, each once and when it is first needed.

    Args:
        together: whether heads will be compared, so that their own inner products are among all of them.
        gain: what the columns of each head alone are multiplied with first, [in]; None for nothing.
    """

    def __init__(self, factor: Factor, *, together: bool = False, gain: Array | None = None) -> None:
        self.heads = factor.heads
        self.inputs = factor.rows.shape[1]
        self.stack = factor.stack
        self._rows = factor.rows
        self._together = together
        self._gain = gain

    @cached_property
    def gram(self) -> Array:
        """The inner products of all rows of all heads."""
        return self._rows @ self._rows.T

    @cached_property
    def blocks(self) -> Array:
        """The inner products of each head's own rows, [heads, width, width]."""
        if self._gain is not None:
            return np.array([rows @ rows.T for rows in map(self._scaled, range(self.heads))])
        if self._together:
            return np.array([self.across(head)[:, head] for head in range(self.heads)])
        return self.stack @ np.swapaxes(self.stack, 1, 2)

    @cached_property
    def spectra(self) -> list[Spectrum]:
        """Of each head."""
        values = np.sqrt(np.maximum(self._squares[:, ::-1][:, : self.inputs], 0))
        if self._ill.size:
            values[self._ill] = singular_values(self.small[self._ill])
        return spectra_of(values)

    @cached_property
    def small(self) -> Array:
        """R^T of each head, [heads, width, width] or less: its singular values, its products."""
        ill = self._ill
        if len(ill) == self.heads:
            return np.array([reduced(self._scaled(head)) for head in ill])
        blocks = self.blocks.copy()
        blocks[ill] = np.eye(blocks.shape[1])
        found = np.linalg.cholesky(blocks)
        for head in ill:
            found[head] = reduced(self._scaled(head))
        return found

    def whole(self) -> Spectrum:
        """The Gram matrix of the rows of all heads."""
        return spectrum_of_gram(self.gram)

    def across(self, head: int) -> Array:
        """The rows of the Gram matrix that belong to a head: [width, heads, width]."""
        width = len(self.gram) // self.heads
        return self.gram[head * width : (head + 1) * width].reshape(width, self.heads, width)

    @cached_property
    def _squares(self) -> Array:
        """Of the singular values of each head, the least first, as far as the Gram matrix tells them."""
        return np.linalg.eigvalsh(self.blocks)

    @cached_property
    def _ill(self) -> Array:
        """The heads of which it does not tell enough."""
        squares = self._squares
        if squares.shape[1] > self.inputs or not squares.size:
            return np.arange(self.heads)
        fine = (squares[:, 0] > _LEAST) & (squares[:, -1] < _WELL**2 * squares[:, 0])
        return np.nonzero(~fine)[0]

    def _scaled(self, head: int) -> Array:
        rows: Array = self.stack[head]
        return rows if self._gain is None else rows * self._gain


def circuits(left: CircuitSide, right: CircuitSide, pairs: Pairs) -> list[Spectrum]:
    """The spectrum of left[i]^T right[j] for each pair (i, j) of heads."""
    ones, others = _columns(pairs)
    return spectra_of(singular_values(np.swapaxes(left.small[ones], 1, 2) @ right.small[others]))


def inner_products(left: CircuitSide, right: CircuitSide, pairs: Pairs) -> Array:
    """<left[i]^T right[j], left[k]^T right[l]> of all pairs (i, j) and (k, l)."""
    ones, others = _columns(pairs)
    products = [
        np.einsum("ahb,ahb->h", left.across(i)[:, ones], right.across(j)[:, others], optimize=False) for i, j in pairs
    ]
    return np.array(products)


def most_similar(products: Array) -> list[Similar | None]:
    """For each circuit the one that is most like it or its negative, the first of equals; None for zeros."""
    sizes = np.sqrt(np.maximum(np.diagonal(products), 0))
    outer = np.outer(sizes, sizes)
    cosines = np.divide(products, outer, out=np.zeros_like(products), where=outer > 0)
    found: list[Similar | None] = []
    for head, row in enumerate(cosines):
        row[head] = 0
        other = int(np.argmax(np.abs(row))) if len(row) > 1 else head
        alone = other == head or not sizes[head] or not row[other]
        found.append(None if alone else Similar(other, float(np.clip(row[other], -1, 1))))
    return found


def symmetric_shares(left: CircuitSide, right: CircuitSide, pairs: Pairs) -> list[float | None]:
    """The share of the squared Frobenius norm of W_Q^T W_K in its symmetric part; None if not square, or zero."""
    if left.inputs != right.inputs:
        return [None] * len(pairs)
    return [_symmetric_share(left, right, pair) for pair in pairs]


def _symmetric_share(left: CircuitSide, right: CircuitSide, pair: tuple[int, int]) -> float | None:
    crossed = right.stack[pair[1]] @ left.stack[pair[0]].T
    whole = float((left.blocks[pair[0]] * right.blocks[pair[1]]).sum())
    return 0.5 + float((crossed * crossed.T).sum()) / (2 * whole) if whole > 0 else None


def _columns(pairs: Pairs) -> tuple[list[int], list[int]]:
    return [one for one, _ in pairs], [other for _, other in pairs]
