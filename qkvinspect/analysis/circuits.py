"""The circuits QK and OV of each head, on thin factors only.

A head's QK circuit is W_Q^T W_K, [in, in] but of rank head_dim; OV is W_O W_V. With the thin QR decompositions
W_Q^T = A R and W_K^T = B S the singular values of W_Q^T W_K are those of R S^T, which is small. The Gram matrices of
all heads give R (by Cholesky, where that is exact enough) and the inner products of any two heads' circuits.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from qkvinspect.analysis.figures import Similar, Spectrum
from qkvinspect.analysis.spectra import reduced, singular_values, spectrum_of, spectrum_of_gram
from qkvinspect.weights.reading import Array

_WELL = 1e3


@dataclass(frozen=True, slots=True)
class Factor:
    """One side of a circuit.

    Attributes:
        rows: of all heads one after another, [heads * width, in].
        heads: how many.
    """

    rows: Array
    heads: int

    def head(self, index: int) -> Array:
        """[width, in]."""
        width = len(self.rows) // self.heads
        return self.rows[index * width : (index + 1) * width]


class CircuitSide:
    """A factor of a circuit, with everything that is computed from it once."""

    def __init__(self, factor: Factor) -> None:
        self.heads = factor.heads
        self.gram: Array = factor.rows @ factor.rows.T
        self.small: list[Array] = []
        self.spectra: list[Spectrum] = []
        for head in range(factor.heads):
            small, values = _triangle(self.block(head)[:, head], factor.head(head))
            self.small.append(small)
            self.spectra.append(spectrum_of(values))

    def whole(self) -> Spectrum:
        """The Gram matrix of the rows of all heads."""
        return spectrum_of_gram(self.gram)

    def block(self, head: int) -> Array:
        """The rows of the Gram matrix that belong to a head: [width, heads, width]."""
        width = len(self.gram) // self.heads
        return self.gram[head * width : (head + 1) * width].reshape(width, self.heads, width)


def _triangle(gram: Array, rows: Array) -> tuple[Array, Array]:
    """R^T of the rows, [width, width] or less, and its singular values.

    Cholesky squares the condition number: from 1e3 on QR takes its place.
    """
    with suppress(np.linalg.LinAlgError):
        small = np.linalg.cholesky(gram)
        values = singular_values(small)
        if len(values) and values[0] < _WELL * values[-1]:
            return small, values
    small = reduced(rows)
    return small, singular_values(small)


def circuit(left: CircuitSide, right: CircuitSide, pair: tuple[int, int]) -> Spectrum:
    """The spectrum of left[i]^T right[j] for one pair (i, j) of heads."""
    return spectrum_of(singular_values(left.small[pair[0]].T @ right.small[pair[1]]))


def inner_products(left: CircuitSide, right: CircuitSide, pairs: Sequence[tuple[int, int]]) -> Array:
    """<left[i]^T right[j], left[k]^T right[l]> of all pairs (i, j) and (k, l)."""
    ones, others = (list(side) for side in zip(*pairs, strict=True))
    products = [
        np.einsum("ahb,ahb->h", left.block(i)[:, ones], right.block(j)[:, others], optimize=False) for i, j in pairs
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


def symmetric_share(
    factors: tuple[Factor, Factor], sides: tuple[CircuitSide, CircuitSide], pair: tuple[int, int]
) -> float | None:
    """The share of the squared Frobenius norm of W_Q^T W_K in its symmetric part; None if not square, or zero."""
    query, key = (factor.head(head) for factor, head in zip(factors, pair, strict=True))
    if query.shape[1] != key.shape[1]:
        return None
    crossed = key @ query.T
    q, k = (side.block(head)[:, head] for side, head in zip(sides, pair, strict=True))
    whole = float((q * k).sum())
    return 0.5 + float((crossed * crossed.T).sum()) / (2 * whole) if whole > 0 else None
