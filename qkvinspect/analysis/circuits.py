"""The circuits QK and OV of each head, on thin factors only, of all heads of alike layers in one call.

A head's QK circuit is W_Q^T W_K, [in, in] but of rank head_dim; OV is W_O W_V. With the thin QR decompositions
W_Q^T = A R and W_K^T = B S the singular values of W_Q^T W_K are those of R S^T, which is small. The Gram matrices of
all heads give S (by Cholesky, where that is exact enough), the squares of these singular values, which are the
eigenvalues of S W_Q W_Q^T S^T, and the inner products of any two heads' circuits. Nothing is computed before it is
asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from qkvinspect.analysis.figures import Similar, Spectrum
from qkvinspect.analysis.spectra import reduced, singular_values, spectra_of, spectra_of_grams
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.reading import Array

_WELL = 1e3
"""A Gram matrix squares the condition number: heads that have a greater one go through QR."""

_PLAIN = 1e-6
"""The least singular value of a circuit times its greatest, in shares of the product of the sizes of its Gram matrices.
Squaring changes a singular value by 1e-16 over twice this share, of the greatest one, at most."""

_AT_ONCE = 4 << 20
"""Bytes of the rows of heads that go through QR in one call."""

_LEAST = 1e-280
"""Squares below lose digits."""

Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Factor:
    """One side of the circuits of some layers that are alike.

    Attributes:
        rows: of all heads one after another, [layers, heads * width, in].
        heads: how many a layer has.
    """

    rows: Array
    heads: int

    @property
    def stack(self) -> Array:
        """[layers, heads, width, in]."""
        layers, rows, inputs = self.rows.shape
        return self.rows.reshape(layers, self.heads, rows // self.heads, inputs)


class CircuitSide:
    """A factor of circuits, with everything that is computed from it, each once and when it is first needed.

    What is of each head is of those of the first layer, then of those of the next one.

    Args:
        together: whether heads of a layer will be compared, so that their own inner products are among all of them.
        gain: what the columns of each head alone are multiplied with first, [layers, in]; None for nothing.
    """

    def __init__(self, factor: Factor, *, together: bool = False, gain: Array | None = None) -> None:
        self.heads = factor.heads
        self.stack = factor.stack
        self.layers, _, self.width, self.inputs = self.stack.shape
        self._rows = factor.rows
        self._together = together
        self._gain = gain

    @cached_property
    def gram(self) -> Array:
        """The inner products of all rows of all heads of each layer."""
        return self._rows @ np.swapaxes(self._rows, 1, 2)

    @property
    def across(self) -> Array:
        """The same by heads: [layers, heads, width, heads, width]."""
        return self.gram.reshape(self.layers, self.heads, self.width, self.heads, self.width)

    @cached_property
    def blocks(self) -> Array:
        """The inner products of each head's own rows, [heads, width, width]."""
        if self._gain is not None:
            return np.array([rows @ rows.T for rows in map(self._scaled, range(self.layers * self.heads))])
        among = self._together
        own = np.einsum("lhahb->lhab", self.across) if among else self.stack @ np.swapaxes(self.stack, 2, 3)
        return own.reshape(-1, self.width, self.width)

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
        few = max(_AT_ONCE // (8 * self.width * self.inputs + 1), 1)
        runs = (ill[first : first + few].tolist() for first in range(0, len(ill), few))
        thin = [reduced(np.array([self._scaled(head) for head in run])) for run in runs]
        if len(ill) == self.layers * self.heads:
            return np.concatenate(thin) if thin else np.zeros((0, self.width, self.width))
        blocks = self.blocks.copy()
        blocks[ill] = np.eye(self.width)
        found = np.linalg.cholesky(blocks)
        if thin:
            found[ill] = np.concatenate(thin)
        return found

    @cached_property
    def sizes(self) -> Array:
        """The Frobenius norm of each of ``blocks``."""
        return np.sqrt(np.einsum("hab,hab->h", self.blocks, self.blocks))

    def wholes(self) -> list[Spectrum]:
        """Of the rows of all heads of each layer."""
        return spectra_of_grams(self.gram)

    def numbers(self, heads: Sequence[int]) -> Array:
        """The places of some heads of every layer among the heads of all."""
        places = [layer * self.heads + head for layer in range(self.layers) for head in heads]
        return np.array(places, np.intp)

    @cached_property
    def _squares(self) -> Array:
        """Of the singular values of each head, the least first, as far as the Gram matrix tells them."""
        return np.linalg.eigvalsh(self.blocks)

    @cached_property
    def _ill(self) -> Array:
        """The heads of which it does not tell enough."""
        squares = self._squares
        if squares.shape[1] > self.inputs or not squares.size:
            return np.arange(len(squares))
        fine = (squares[:, 0] > _LEAST) & (squares[:, -1] < _WELL**2 * squares[:, 0])
        return np.nonzero(~fine)[0]

    def _scaled(self, head: int) -> Array:
        layer, place = divmod(head, self.heads)
        rows: Array = self.stack[layer, place]
        return rows if self._gain is None else rows * self._gain[layer]


def circuits(left: CircuitSide, right: CircuitSide, pairs: Pairs) -> list[Spectrum]:
    """The spectrum of left[i]^T right[j] for each pair (i, j) of heads, of one layer after another."""
    ones, others = (side.numbers(places) for side, places in zip((left, right), _columns(pairs), strict=True))
    plain = _plain_values(left, right, ones, others)
    if plain is None:
        return spectra_of(_values(left, right, ones, others))
    values, fine = plain
    (rest,) = np.nonzero(~fine)
    if rest.size:
        values[rest] = _values(left, right, ones[rest], others[rest])
    return spectra_of(values)


def _values(left: CircuitSide, right: CircuitSide, ones: Array, others: Array) -> Array:
    """The singular values of the products of some heads, the greatest first."""
    return singular_values(np.swapaxes(left.small[ones], 1, 2) @ right.small[others])


def _plain_values(left: CircuitSide, right: CircuitSide, ones: Array, others: Array) -> tuple[Array, Array] | None:
    """The same from Gram matrices alone, and whether squares tell them well; None where some have no triangle."""
    if not left.width == right.width <= min(left.inputs, right.inputs):
        return None
    try:
        triangles = np.linalg.cholesky(right.blocks)[others]
    except np.linalg.LinAlgError:
        return None
    squares = np.linalg.eigvalsh(np.swapaxes(triangles, 1, 2) @ left.blocks[ones] @ triangles)
    values = np.sqrt(np.maximum(squares[:, ::-1], 0))
    fine = values[:, 0] * values[:, -1] > _PLAIN * left.sizes[ones] * right.sizes[others]
    return values, fine & (squares[:, 0] > _LEAST)


def inner_products(left: CircuitSide, right: CircuitSide, pairs: Pairs) -> Array:
    """<left[i]^T right[j], left[k]^T right[l]> of all pairs (i, j) and (k, l) of each layer: [layers, pairs, pairs]."""
    ones, others = _columns(pairs)
    products = np.empty((left.layers, len(pairs), len(pairs)))
    for at, (i, j) in enumerate(pairs):
        one, other = _some(left.across[:, i], ones[at:]), _some(right.across[:, j], others[at:])
        products[:, at, at:] = products[:, at:, at] = np.einsum("lahb,lahb->lh", one, other)
    return products


def _some(rows: Array, heads: Sequence[int]) -> Array:
    """What [layers, width, heads, width] has of some heads, which mostly follow each other."""
    run = slice(heads[0], heads[0] + len(heads))
    return rows[:, :, run] if list(heads) == list(range(run.start, run.stop)) else rows[:, :, list(heads)]


def most_similar(products: Array) -> list[Similar | None]:
    """For each circuit the one of its layer that is most like it or its negative, the first of equals; None for zeros.

    Args:
        products: as ``inner_products``.
    """
    sizes = np.sqrt(np.maximum(np.diagonal(products, axis1=1, axis2=2), 0))
    outer = sizes[:, :, None] * sizes[:, None, :]
    cosines = np.divide(products, outer, out=np.zeros_like(products), where=outer > 0)
    for pair in range(products.shape[1]):
        cosines[:, pair, pair] = 0
    others = np.abs(cosines).argmax(axis=2)
    found = np.clip(np.take_along_axis(cosines, others[:, :, None], axis=2), -1, 1)
    return [
        Similar(other, cosine) if cosine else None
        for other, cosine in zip(others.ravel().tolist(), found.ravel().tolist(), strict=True)
    ]


def symmetric_shares(left: CircuitSide, right: CircuitSide, pairs: Pairs) -> list[float | None]:
    """The share of the squared Frobenius norm of W_Q^T W_K in its symmetric part; None if not square, or zero."""
    if left.inputs != right.inputs:
        return [None] * (left.layers * len(pairs))
    crossed = np.empty((left.layers, len(pairs)))
    for at, (i, j) in enumerate(pairs):
        products = right.stack[:, j] @ np.swapaxes(left.stack[:, i], 1, 2)
        crossed[:, at] = np.einsum("lab,lba->l", products, products)
    ones, others = (side.numbers(places) for side, places in zip((left, right), _columns(pairs), strict=True))
    wholes = np.einsum("hab,hab->h", left.blocks[ones], right.blocks[others])
    shares = zip(crossed.ravel().tolist(), wholes.tolist(), strict=True)
    return [0.5 + part / (2 * whole) if whole > 0 else None for part, whole in shares]


def _columns(pairs: Pairs) -> tuple[list[int], list[int]]:
    return [one for one, _ in pairs], [other for _, other in pairs]
