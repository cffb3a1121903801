"""The likelihood of heads in one layer, against numpy's own variances; and groups of heads that only seem to be one."""

from __future__ import annotations

import numpy as np
import pytest

from qkvinspect.inspection.evidence.blocksums import Products, block_sums
from qkvinspect.inspection.evidence.fit import Fit, fit
from qkvinspect.inspection.evidence.groups import explained
from qkvinspect.inspection.evidence.sample import Sample
from qkvinspect.inspection.evidence.term import Term

Rng = np.random.Generator


@pytest.fixture
def rng() -> Rng:
    return np.random.default_rng(0)


def symmetric(rng: Rng, size: int) -> np.ndarray:
    values = rng.normal(size=(size, size))
    values += values.T
    np.fill_diagonal(values, 0)
    return values


def likelihood(*classes: np.ndarray) -> float:
    """Twice the log-likelihood of the normal distribution of each class, up to a constant an entry."""
    return sum(-one.size * float(np.log(one.var())) for one in classes)


def pairs(values: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of rows in one group, and those of two."""
    down, across = np.triu_indices(len(values), 1)
    same = group[down] == group[across]
    return values[down, across][same], values[down, across][~same]


def sampled(rng: Rng, scores: np.ndarray) -> Sample:
    spaces, lengths = np.zeros(len(scores)), rng.normal(size=len(scores)).astype(np.float32)
    return Sample("", scores, spaces, None, lengths, 1)


def test_a_pair_of_rows_counts_once(rng: Rng) -> None:
    values = symmetric(rng, 12)
    term = Term(block_sums(Products(values), 4), (1, 1))
    within, across = pairs(values, np.arange(12) // 4)
    assert term.smallest() == within.size == 18
    assert term.fitted().value == pytest.approx(likelihood(within, across))
    assert term.without_heads.value == pytest.approx(likelihood(np.concatenate([within, across])))


def test_heads_put_together_and_parted_again(rng: Rng) -> None:
    values = symmetric(rng, 24)
    term = Term(block_sums(Products(values), 4), (1, 1))
    order = np.array([0, 0, 1, 1, 2, 2])
    head = np.arange(24) // 4
    within, across = pairs(values, order[head])
    assert term.fitted(order).value == pytest.approx(likelihood(within, across))
    own = pairs(values, head)[0]
    down, right = np.triu_indices(24, 1)
    beside = (order[head][down] == order[head][right]) & (head[down] != head[right])
    expected = likelihood(own, values[down, right][beside], across)
    assert term.parted(order).value == pytest.approx(expected)


def test_a_hypothesis_has_the_likelihood_of_its_similarities_and_of_its_lengths(rng: Rng) -> None:
    sample = sampled(rng, symmetric(rng, 24))
    one = fit(sample, {"q": np.arange(24).reshape(6, 4)})
    classes = pairs(sample.scores, np.arange(24) // 4)
    assert one.fitted.value == pytest.approx(likelihood(*classes, sample.lengths), rel=1e-5)
    assert one.gain().value == pytest.approx(likelihood(*classes) - likelihood(np.concatenate(classes)), rel=1e-5)


class Counted(Fit):
    """A fit that counts how many other orders of its heads it is asked for."""

    asked = 0

    def gains(self, orders: np.ndarray) -> np.ndarray:
        type(self).asked += len(orders)
        return super().gains(orders)


def alike(rng: Rng, heads: int, together: int) -> Sample:
    """Heads of four rows: those of one head are alike, and so are neighbouring heads, or all of them."""
    head = np.arange(4 * heads) // 4
    scores = (
        symmetric(rng, 4 * heads) + 3 * (head[:, None] == head) + 3 * (head[:, None] // together == head // together)
    )
    np.fill_diagonal(scores, 0)
    return sampled(rng, scores)


def cut(sample: Sample, heads: int) -> Fit:
    return fit(sample, {"q": np.arange(len(sample.scores)).reshape(heads, -1)})


@pytest.mark.parametrize(("together", "expected"), [(1, {4: 8}), (2, {})])
def test_groups_of_heads_are_no_heads_where_any_other_groups_would_do(
    rng: Rng, together: int, expected: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where that is as clear as can be, a quarter of the orders is enough to see it."""
    sample = alike(rng, 8, together)
    fits = {heads: [cut(sample, heads)] for heads in (4, 8)}
    gain = fits[4][0].gain()
    score = gain.value - gain.expected
    scores = {4: score, 8: 0.9 * score}
    own = fits[8][0]
    monkeypatch.setattr(Counted, "asked", 0)
    assert explained(scores, {4: fits[4], 8: [Counted(own.terms, own.kv_heads, own.share, own.lengths)]}) == expected
    assert Counted.asked == 15


def test_heads_that_share_kv_heads_are_explained_by_no_others(rng: Rng) -> None:
    """Which rows are tied depends on their number, so that other orders are no comparison."""
    sample = alike(rng, 12, 1)
    index = {"q": np.arange(32).reshape(8, 4), "k": np.arange(32, 48).reshape(4, 4)}
    assert fit(sample, index).share == 2
    assert explained({4: 1e-3, 8: 9e-4}, {4: [fit(sample, index)], 8: [fit(sample, index)]}) == {}
