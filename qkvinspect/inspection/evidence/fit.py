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

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np

from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.inspection.evidence.blocksums import BlockSums, Products, added_up, block_sums, cross_sums, side_by_side
from qkvinspect.inspection.evidence.likelihood import FEW, Fitted, fitted
from qkvinspect.inspection.evidence.sample import Sample
from qkvinspect.inspection.evidence.term import Term
from qkvinspect.weights.reading import Array

_ROOM = 1 << 20
"""Moments of hypotheses that are worked out at once."""

Index = Mapping[str, Array]
"""For each part, the sampled rows of its heads: int [heads, rows of a head]."""


@dataclass(frozen=True, slots=False)
class Fit:
    """A hypothesis applied to one layer, or to several that are alike in form, each for itself.

    Attributes:
        terms: of the similarities of rows.
        lengths: of how long they are: Q's with K's, V's with the columns of the output projection.
        tied: how many of the terms, the first ones, are of Q with K, and how many after these of V with the output.
        layers: how many layers these are; of one, they have no axis of layers.
        elsewhere: whether it is weighed against some that put the parts into other rows: ``over_one_base``.
    """

    terms: tuple[Term, ...]
    kv_heads: int
    share: int
    lengths: Fitted
    tied: tuple[int, int] = (0, 0)
    layers: int = 1
    elsewhere: bool = False

    @cached_property
    def usable(self) -> bool:
        """Whether there are heads to tell apart, and entries enough in every class."""
        enough = all(term.smallest() >= FEW for term in self.terms)
        return enough and self.gain().variance > 0

    @cached_property
    def fitted(self) -> Fitted:
        """The fit of every entry and every row's length; comparable between hypotheses about the same ones."""
        return self._entries + self.lengths

    @property
    def all_without_heads(self) -> Fitted:
        """As ``fitted``, if there are no heads."""
        return sum((term.all_without_heads for term in self.terms), self.lengths)

    def gain(self, order: Array | None = None) -> Fitted:
        """The gain over the hypothesis that there are no heads, or the one that ``over_one_base`` gave it.

        Args:
            order: as if the kv heads that carry the same number in it were one head.
        """
        return self._gain if order is None else self._fitted(order, thinned=True) - self._without_heads

    @cached_property
    def _gain(self) -> Fitted:
        return self._fitted(None, thinned=True) - self._without_heads

    @property
    def nests(self) -> bool:
        """Whether fewer heads only take its heads together: not where the tied rows depend on how many share a kv head,
        nor where the parts lie elsewhere.
        """
        return self.share == 1 and not self.elsewhere

    def gains_of_halves(self) -> tuple[Fitted, Fitted]:
        """``gain`` of Q and K by themselves, and of V and the output projection."""
        first, both = self.tied[0], sum(self.tied)
        one, other = (
            sum((term.fitted(thinned=True) - term.without_heads for term in some), Fitted())
            for some in (self.terms[:first], self.terms[first:both])
        )
        return one, other

    def gains(self, orders: Array) -> Array:
        """As ``gain`` less what it is on noise, for each of several orders of the same numbers, as ``Term.scores``."""
        without = np.asarray(self._without_heads.score)[..., None]
        return sum((term.scores(orders) for term in self.terms), np.zeros(len(orders))) - without

    def of_layer(self, number: int) -> Fit:
        """The same for one of several layers, with what all of them together were asked for."""
        terms = tuple(replace(term, sums=term.sums.of_layer(number)) for term in self.terms)
        one = replace(self, terms=terms, lengths=self.lengths.of_layer(number), layers=1)
        vars(one).update(fitted=self.fitted.of_layer(number), _gain=self._gain.of_layer(number))
        return one

    def parted(self, together: int) -> Fitted:
        """The gain over taking so many neighbouring kv heads for one."""
        order = np.arange(self.kv_heads) // together
        return sum((term.parted(order) for term in self.terms), Fitted()) - self._fitted(order)

    @cached_property
    def _entries(self) -> Fitted:
        return self._fitted(None)

    @cached_property
    def _without_heads(self) -> Fitted:
        return sum((term.without_heads for term in self.terms), Fitted())

    def _fitted(self, order: Array | None, *, thinned: bool = False) -> Fitted:
        return sum((term.fitted(order, thinned=thinned) for term in self.terms), Fitted())


def fit(sample: Sample, index: Index) -> Fit:
    """Divide a layer into the heads of a hypothesis.

    Args:
        index: ``q``, ``k``, ``v`` as far as the layer has them, ``o`` for the columns of the output projection,
            counted from its first.
    """
    placed = dict(index)
    if "o" in placed and sample.columns is not None:
        placed["o"] = placed["o"] + sample.columns
    else:
        placed.pop("o", None)
    kv_heads = min(len(rows) for rows in placed.values())
    share = max(len(rows) for rows in placed.values()) // kv_heads
    of_q, of_v = _tied(sample, placed, "q", "k", share), _tied(sample, placed, "o", "v", share)
    terms = [*of_q, *of_v]
    for first, second in _ACROSS:
        if first in placed and second in placed and not np.array_equal(placed[first], placed[second]):
            terms += _across(sample, placed[first], placed[second], kv_heads)
    tied = len(of_q), len(of_v)
    return Fit(tuple(terms), kv_heads, share, _lengths(sample, placed), tied, sample.layers)


def know(fits: Sequence[Fit]) -> None:
    """Work out what each is worth, those that are alike in form at once: numpy takes as long over one as over many."""
    alike: dict[object, list[Fit]] = {}
    for one in fits:
        of_terms = tuple((term.sums.form, term.share, term.given) for term in one.terms)
        alike.setdefault((of_terms, one.lengths.expected, one.layers), []).append(one)
    for some in alike.values():  # what is alone is worked out when it is asked for
        step = max(_ROOM // max(sum(term.sums.moments.size for term in some[0].terms), 1), 1)
        for start in range(0, len(some), step):
            if len(part := some[start : start + step]) > 1:
                _know_at_once(part)


def _know_at_once(fits: Sequence[Fit]) -> None:
    """As if these were so many more layers."""
    first, terms = fits[0], _term_by_term(fits, side_by_side)
    lengths = np.concatenate([np.broadcast_to(one.lengths.value, one.layers) for one in fits])
    lengths = Fitted(lengths, first.lengths.expected, first.lengths.variance)
    whole = replace(first, terms=terms, lengths=lengths, layers=len(fits) * first.layers)
    known = {"fitted": whole.fitted, "_gain": whole.gain()}
    for number, one in enumerate(fits):
        own = {name: of.of_layers(number * first.layers, first.layers) for name, of in known.items()}
        vars(one).update(own, usable=whole.usable)


def over_one_base(fits: Sequence[Fit]) -> None:
    """Let hypotheses that put the parts into other rows gain over the likeliest of these without heads.

    What each gains over its own parts says nothing beside what another does: wrong rows gain much over little.
    """
    own = [one.all_without_heads for one in fits]
    base = np.max([np.asarray(without.score) for without in own], axis=0)
    for one, without in zip(fits, own, strict=True):
        vars(one).update(elsewhere=True, _gain=one.fitted - replace(without, value=base + without.expected))


def together(fits: Sequence[Fit]) -> Fit | None:
    """The same hypothesis applied to several layers that follow one law; None where their entries are not alike.

    One distribution for all has fewer parameters than one for each, so that many layers with weak evidence decide
    together what none of them does alone.
    """
    if not are_alike(fits):
        return None
    first = fits[0]
    terms = _term_by_term(fits, lambda sums: added_up([one.of_all() for one in sums]))
    return replace(first, terms=terms, lengths=sum((one.lengths.of_all for one in fits), Fitted()), layers=1)


def _term_by_term(fits: Sequence[Fit], made: Callable[[Sequence[BlockSums]], BlockSums]) -> tuple[Term, ...]:
    """Of terms in the same place one, with what is made of the sums of all."""
    every = zip(*(one.terms for one in fits), strict=True)
    return tuple(replace(same[0], sums=made([term.sums for term in same])) for same in every)


def are_alike(fits: Sequence[Fit]) -> bool:
    """Whether their entries are, so that they may follow one law."""
    kinds = {
        tuple(
            (len(one.sums.moments), one.sums.counts.shape, one.share, one.given, one.sums.paired is None)
            for one in each.terms
        )
        for each in fits
    }
    return len(kinds) == 1


def _lengths(sample: Sample, index: Index) -> Fitted:
    """Balanced factors have rows of the same lengths, whatever the heads: the same for whatever puts parts there."""
    key = tuple((part, rows.tobytes()) for part, rows in index.items())
    (found,) = sample.remembered(key, lambda: [_fitted_lengths(sample, index)])
    return found


def _fitted_lengths(sample: Sample, index: Index) -> Fitted:
    found = Fitted()
    for wide, narrow in (("q", "k"), ("o", "v")):
        values = [
            sample.lengths[..., index[part].ravel()].astype(np.float64) for part in (wide, narrow) if part in index
        ]
        if len(values) == 2 and values[0].shape == values[1].shape:
            found += _fitted(*values)
        else:
            for x in values:
                found += _fitted(x)
    return found


def _fitted(*values: Array) -> Fitted:
    products = [one * one for one in values] + ([values[0] * values[1]] if len(values) == 2 else [])
    return fitted(float(values[0].shape[-1]), np.array([one.sum(axis=-1) for one in (*values, *products)]))


_ACROSS = (("q", "k"), ("q", "v"), ("k", "v"), ("q", "o"), ("o", "k"), ("o", "v"))
"""Pairs of parts whose rows are compared, never fewer heads in the first."""


def _across(sample: Sample, first: Array, second: Array, kv_heads: int) -> list[Term]:
    """The term of two parts; of parts alike it is the same whoever comes first, in whatever packing has their rows."""
    if first.shape == second.shape and first.flat[0] > second.flat[0]:
        first, second = second, first
    key = first.shape, second.shape, kv_heads, first.tobytes(), second.tobytes()
    return sample.remembered(key, lambda: _of_two(sample, first, second, kv_heads))


def _of_two(sample: Sample, first: Array, second: Array, kv_heads: int) -> list[Term]:
    products = sample.between(first, second)
    if products is None:
        return []
    sums = cross_sums(products, first.shape[1], second.shape[1], len(first) // len(second))
    share = len(first) // kv_heads, len(second) // kv_heads
    return [Term(sums, share, weight=1.0)]


def _tied(sample: Sample, index: Index, wide: str, narrow: str, share: int) -> list[Term]:
    """Q with K, or the output projection with V: tied where both are there and have the same rows."""
    there = [part for part in (wide, narrow) if part in index]
    if len(there) < 2 or index[wide].size != share * index[narrow].size:
        return [_among_shared(sample, index[part], share if part == wide else 1) for part in there]
    width = index[wide].shape[1]
    if share == 1:
        return [Term(block_sums(sample.among(index[wide], index[narrow]), width), (1, 1))]
    stacked = Products(_stack(sample.among(index[wide]).matrix, share, width), sample.among(index[narrow]).matrix)
    return [_among_shared(sample, index[wide], share), Term(block_sums(stacked, width), (1, 1), given=True)]


def _among_shared(sample: Sample, rows: Array, share: int) -> Term:
    """Similarities of heads of which some share a kv head: that one's are seen again in each of them."""
    sums = block_sums(sample.among(rows), rows.shape[1], share)
    return Term(sums, (share, share), weight=0.5)


def _stack(scores: Array, share: int, width: int) -> Array:
    """Sum over the query heads that share a kv head: what stays balanced with that kv head."""
    kv_heads = scores.shape[-1] // (share * width)
    layers = scores.shape[:-2]
    parted = scores.reshape(*layers, kv_heads, share, width, kv_heads, share, width)
    return np.einsum("...arxbry->...axby", parted).reshape(*layers, kv_heads * width, kv_heads * width)
