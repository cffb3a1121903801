"""The circuits QK and OV of each head, on thin factors only.

A head's QK circuit is W_Q^T W_K, [in, in] but of rank head_dim; OV is W_O W_V. With the thin QR decompositions
W_Q^T = A R and W_K^T = B S the singular values of W_Q^T W_K are those of R S^T, which is small. The inner product of
two heads' circuits is that of the blocks of the Gram matrices of all their factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkvinspect.analysis.figures import Similar, Spectrum
from qkvinspect.analysis.spectra import reduced, spectrum, spectrum_of_gram
from qkvinspect.blocks import Array


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


class Side:
    """A factor with what is reckoned of it once."""

    def __init__(self, factor: Factor) -> None:
        self.heads = factor.heads
        self.small = [reduced(factor.head(head)) for head in range(factor.heads)]
        self.spectra = [spectrum(one) for one in self.small]
        self.gram: Array = factor.rows @ factor.rows.T
        self.whole: Spectrum = spectrum_of_gram(self.gram)

    def block(self, head: int) -> Array:
        """The rows of the Gram matrix that belong to a head: [width, heads, width]."""
        width = len(self.gram) // self.heads
        return self.gram[head * width : (head + 1) * width].reshape(width, self.heads, width)


def circuit(left: Side, right: Side, pair: tuple[int, int]) -> Spectrum:
    """Of left[i]^T right[j]."""
    return spectrum(left.small[pair[0]].T @ right.small[pair[1]])


def inner_products(left: Side, right: Side, pairs: Sequence[tuple[int, int]]) -> Array:
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


def symmetric_share(query: Array, key: Array) -> float | None:
    """The share of the squared Frobenius norm of W_Q^T W_K in its symmetric part; None if not square, or zero."""
    if query.shape[1] != key.shape[1]:
        return None
    crossed = key @ query.T
    whole = float(((query @ query.T) * (key @ key.T)).sum())
    return 0.5 + float((crossed * crossed.T).sum()) / (2 * whole) if whole > 0 else None
