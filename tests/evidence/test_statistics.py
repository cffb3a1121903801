"""The statistics that evidence rests on, each against numpy, scipy or chance itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from qkvinspect.inspection.evidence import gram, likelihood, profile
from qkvinspect.inspection.evidence.blocksums import BlockSums, Products, added_up, block_sums, cross_sums
from qkvinspect.inspection.evidence.likelihood import Fitted
from qkvinspect.inspection.evidence.odds import TEMPERATURE, share_of
from qkvinspect.inspection.evidence.rotary_order import divides_as_q, places_of
from qkvinspect.inspection.evidence.sample import stride_of
from tests.some import crossed

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("x", [0.5, 1, 1.5, 2, 3.5, 5.5, 6, 6.5, 10, 1e3, 1e6])
def test_digamma_and_trigamma_are_scipy_s(x: float) -> None:
    assert likelihood._digamma(x) == pytest.approx(special.digamma(x), abs=1e-7, rel=1e-7)
    assert likelihood._trigamma(x) == pytest.approx(special.polygamma(1, x), rel=1e-7)


def sums(products: list[np.ndarray], width: int, other: int) -> np.ndarray:
    """Of the blocks of each matrix, one by one."""
    down, right = (range(0, size, step) for size, step in zip(products[0].shape, (width, other), strict=True))
    return np.array([[[one[i : i + width, j : j + other].sum() for j in right] for i in down] for one in products])


@pytest.mark.parametrize(
    ("width", "other"), [(1, 1), (2, 2), (4, 4), (8, 8), (3, 3), (6, 6), (2, 4), (4, 2), (3, 2), (8, 1)]
)
def test_sums_over_blocks(width: int, other: int) -> None:
    a, b = RNG.normal(size=(2, 24, 24)).astype(np.float32)
    np.testing.assert_allclose(Products(a).add_up(width, other), sums([a, a * a], width, other), atol=1e-4)
    twice = Products(a, b)
    expected = sums([a, b, a * a, b * b, a * b], width, other)
    np.testing.assert_allclose(twice.add_up(width, other), expected, atol=1e-4)
    np.testing.assert_allclose(twice.add_up(width, other), expected, atol=1e-4)  # as it is remembered


def test_blocks_of_symmetric_matrices_leave_their_diagonal_out() -> None:
    a = RNG.normal(size=(12, 12))
    a += a.T
    np.fill_diagonal(a, 0)
    found = block_sums(Products(a), 4)
    assert found.counts.tolist() == [[16 - 4 * (i == j) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(found.moments, sums([a, a * a], 4, 4), atol=1e-9)
    count, moments = found.of(np.array([[0], [1]]), np.array([[0, 2]]))
    assert count == 12 + 16 + 16 + 16
    np.testing.assert_allclose(moments, found.moments[:, [0, 0, 1, 1], [0, 2, 0, 2]].sum(axis=1))
    both = added_up([found, BlockSums(found.counts, 2 * found.moments, (3.0, np.ones(2)))])
    np.testing.assert_allclose(both.counts, 2 * found.counts)
    np.testing.assert_allclose(both.moments, 3 * found.moments)
    assert both.paired is not None
    assert both.paired[0] == 3


@pytest.mark.parametrize("share", [1, 2, 3])
def test_rows_at_the_same_place_of_both_heads_are_kept_apart(share: int) -> None:
    width, across = 4, 2
    a = RNG.normal(size=(across * share * width, across * width))
    found = cross_sums(Products(a), width, width, share)
    own = np.array(
        [a[head * width + row, head // share * width + row] for head in range(across * share) for row in range(width)]
    )
    assert found.paired is not None
    assert found.paired[0] == own.size
    np.testing.assert_allclose(found.paired[1], [own.sum(), (own**2).sum()])
    assert found.counts.tolist() == [[16 - 4 * (i // share == j) for j in range(across)] for i in range(across * share)]
    np.testing.assert_allclose(found.moments.sum(axis=(1, 2)), [a.sum() - own.sum(), (a**2).sum() - (own**2).sum()])
    for head in range(across * share):
        block = a[head * width : (head + 1) * width, head // share * width :][:, :width].copy()
        np.fill_diagonal(block, 0)
        np.testing.assert_allclose(found.moments[:, head, head // share], [block.sum(), (block**2).sum()])
    other = cross_sums(Products(a), width, 2, share)
    assert other.paired is None
    assert (other.counts == 8).all()


def moments(*values: np.ndarray) -> np.ndarray:
    if len(values) == 1:
        return np.array([values[0].sum(), (values[0] ** 2).sum()])
    x, y = values
    return np.array([x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])


def test_how_well_a_normal_distribution_fits() -> None:
    x, y = RNG.normal(size=(2, 50))
    y += x / 2
    assert likelihood.fitted(50, moments(x)).value == pytest.approx(-50 * math.log(x.var()))
    covariance = np.cov(x, y, bias=True)
    assert likelihood.fitted(50, moments(x, y)).value == pytest.approx(-50 * math.log(np.linalg.det(covariance)))
    left = y - np.polyval(np.polyfit(x, y, 1), x)
    assert likelihood.fitted(50, moments(x, y), given=True).value == pytest.approx(-50 * math.log(left.var()))
    assert likelihood.fitted(50, moments(np.ones(50))).value == pytest.approx(-50 * math.log(1e-6))


@crossed(count=[4, 5, 9, 40], kind=["one", "two", "given"])
def test_on_noise_it_is_what_was_expected(count: int, kind: str) -> None:
    drawn = RNG.normal(size=(6000, 2, count))
    found = [
        likelihood.fitted(count, moments(*(one[:1] if kind == "one" else one)), given=kind == "given") for one in drawn
    ]
    values = np.array([one.value for one in found])
    spread = math.sqrt(found[0].variance)
    assert spread > 0
    assert abs(values.mean() - found[0].expected) < 5 * spread / math.sqrt(len(values))
    assert values.std() == pytest.approx(spread, rel=0.1)


def test_few_entries_are_not_fitted_and_fits_add_up() -> None:
    assert likelihood.fitted(3, np.ones(2)) == Fitted(0, 0, 0)
    assert likelihood.fitted(4, np.array([0.0, 1.0])) != Fitted(0, 0, 0)
    one, other = Fitted(5, 3, 7), Fitted(1, 2, 4)
    assert one + other == Fitted(6, 5, 11)
    assert one - other == Fitted(4, 1, 3)


def test_scores_are_normal_quantiles_of_the_ranks_of_cosines() -> None:
    rows = RNG.normal(size=(40, 60)).astype(np.float32) * RNG.uniform(0.01, 100, size=(40, 1)).astype(np.float32)
    found = gram.normal_scores(rows)
    assert found is not None
    above = np.triu_indices(40, 1)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    ranks = (stats.rankdata((unit @ unit.T)[above]) - 0.5) / len(above[0])
    np.testing.assert_allclose(found[above], stats.norm.ppf(ranks), atol=0.05)
    assert np.array_equal(found, found.T)
    assert not found.diagonal().any()
    ties = np.array([[3, 1], [1, 2]])
    expected = stats.norm.ppf((stats.rankdata([3, 1, 1, 2]) - 0.5) / 4).reshape(2, 2)
    np.testing.assert_allclose(gram.normal_ranks(ties), expected, atol=0.01)


def test_rows_so_small_that_one_over_their_length_is_no_float32_are_compared_as_others() -> None:
    """Weight decay leaves rows of subnormal numbers; their directions are those of the numbers that are there."""
    rows = RNG.normal(size=(64, 32)).astype(np.float32)
    rows[5] *= 1e-40
    larger = rows.copy()
    larger[5] = np.ldexp(rows[5], 100)  # the same numbers, exactly, where they are normal
    np.testing.assert_allclose(gram.normal_scores(rows), gram.normal_scores(larger), atol=1e-3)


def test_the_greatest_cosine_is_told_from_the_next() -> None:
    cosines = np.eye(4)
    above = np.triu_indices(4, 1)
    cosines[above] = 0.5, 0.49999, 0.3, 0.1, -0.2, 0.05
    cosines = np.triu(cosines) + np.triu(cosines, 1).T
    rows = np.linalg.cholesky(cosines) @ stats.ortho_group.rvs(4, random_state=0)
    found = gram.normal_scores(rows.astype(np.float32))
    assert found is not None
    np.testing.assert_allclose(found[above], stats.norm.ppf((stats.rankdata(cosines[above]) - 0.5) / 6), atol=0.01)


@pytest.mark.parametrize("rows", [3, 4, 5])
def test_four_rows_are_the_fewest_that_say_anything(rows: int) -> None:
    values = RNG.normal(size=(rows, 8)).astype(np.float32)
    assert (gram.normal_scores(values) is None) == (rows < 4)
    for odd in (np.nan, np.inf):
        values[1, 2] = odd
        assert gram.normal_scores(values) is None


def test_the_divergence_of_two_normal_distributions() -> None:
    """scipy has none: by the entropies and the mean of the other's density, less its expectation under chance."""
    for size in (1, 2):
        one = RNG.normal(size=size), np.cov(RNG.normal(size=(size, 9)), bias=True).reshape(size, size), 100
        other = RNG.normal(size=size), np.cov(RNG.normal(size=(size, 9)), bias=True).reshape(size, size), 1000
        drawn = np.random.default_rng(1).multivariate_normal(one[0], one[1], 200_000)
        own, its = (stats.multivariate_normal(law[0], law[1]).logpdf(drawn).mean() for law in (one, other))
        expected = own - its - size * (size + 3) / 4 / 100
        assert profile._divergence(one, other) == pytest.approx(expected, rel=0.05, abs=0.02)


def test_rows_that_lie_so_far_apart() -> None:
    a, b = RNG.normal(size=(2, 9, 9))
    mean, spread, count = profile._law([a, b], range(2, 4))
    values = np.array([[m[i, i + d] for d in (2, 3) for i in range(9 - d)] for m in (a, b)])
    assert count == values.shape[1] == 13
    np.testing.assert_allclose(mean, values.mean(axis=1))
    np.testing.assert_allclose(spread, np.cov(values, bias=True) + 1e-3 * np.eye(2))


def test_orders_of_rotary_pairs() -> None:
    """By reshapes, as the converters write them."""
    rows = np.arange(12)
    once = rows.reshape(2, 6).T.ravel()  # llama.cpp's permute: halves become neighbours
    stored = np.empty(12, int)
    stored[places_of("neighbours", 12, 2)] = rows
    assert stored.tolist() == once.tolist()
    stored[places_of("twice", 12, 2)] = rows
    assert stored.tolist() == once[once].tolist()
    stored[places_of("undone", 12, 2)] = rows
    assert stored[once].tolist() == rows.tolist()
    stored[places_of("with the heads of Q", 12, 2)] = rows
    assert stored.tolist() == rows.reshape(2, 2, 3).swapaxes(1, 2).ravel().tolist()
    assert places_of("halves", 12, 2).tolist() == rows.tolist()
    assert [share for share in range(1, 13) if divides_as_q(12, share)] == [2, 3, 6]


@pytest.mark.parametrize(
    ("rows", "most", "coarsest", "stride"),
    [([64], 64, None, 1), ([65], 64, None, 1), ([128], 64, None, 2), ([96, 32], 64, None, 2), ([96, 36], 64, None, 4),
     ([512, 512], 64, None, 16), ([512, 512], 64, 4, 4), ([512, 512], 64, 3, 2), ([96], 16, 1, 1), ([6], 1, None, 2)],
)  # fmt: skip
def test_one_row_in_how_many_is_taken(rows: list[int], most: int, coarsest: int | None, stride: int) -> None:
    """A power of two that every part can be thinned by, no larger than is needed."""
    assert stride_of(rows, most, coarsest) == stride


def test_the_share_of_the_first_is_that_of_likelihoods() -> None:
    for top, others in ((3.0, [0.0]), (5.0, [4.0, 1.0]), (0.0, [])):
        weights = [math.exp(score / 2 / TEMPERATURE) for score in (top, *others)]
        assert share_of(top, others) == pytest.approx(weights[0] / sum(weights))
    assert 0 < share_of(0, [1e9]) < 1e-9
