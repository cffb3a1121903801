"""The law of fixed points, and that p-values are uniform where units are numbered by chance."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
import pytest
from scipy.stats import kstest

from qkvinspect.lineage.assignment import in_order, one_to_one
from qkvinspect.lineage.order_test import fixed_points, order_test
from qkvinspect.lineage.units import choose


@pytest.mark.parametrize("size", range(1, 7))
def test_the_law_of_fixed_points_is_that_of_all_permutations_counted(size: int) -> None:
    counted = np.zeros(size + 1)
    for order in permutations(range(size)):
        counted[sum(place == one for place, one in enumerate(order))] += 1
    assert fixed_points([size]) == pytest.approx(counted / factorial(size), abs=1e-12)


def test_families_of_units_are_independent() -> None:
    counted = np.zeros(8)
    for one in permutations(range(3)):
        for other in permutations(range(4)):
            counted[sum(map(int.__eq__, one, range(3))) + sum(map(int.__eq__, other, range(4)))] += 1
    assert fixed_points([3, 4]) == pytest.approx(counted / (6 * 24))


@pytest.mark.parametrize("sizes", [[24], pytest.param([8, 8, 8, 8], marks=pytest.mark.gate)])
def test_p_values_of_noise_are_uniform(sizes: list[int]) -> None:
    generator = np.random.default_rng(0)
    found = [order_test([generator.normal(size=(n, n)) for n in sizes]).p_value for _ in range(100)]
    assert kstest(found, "uniform").pvalue > 0.01


def test_numbering_one_side_otherwise_moves_no_unit_but_its_number() -> None:
    similarity = np.random.default_rng(1).normal(size=(16, 16))
    order = np.random.default_rng(2).permutation(16)
    before, after = dict(one_to_one(similarity)), dict(one_to_one(similarity[:, order]))
    assert {row: order[col] for row, col in after.items()} == before


def test_all_units_in_place_have_the_chance_of_one_permutation() -> None:
    found = order_test([np.eye(20)])
    assert (found.units, found.in_place) == (20, 20)
    assert found.p_value == pytest.approx(1 / factorial(20), rel=1e-6)
    assert found.least == pytest.approx(1 / factorial(20), rel=1e-6)


def test_nothing_to_go_by_is_no_evidence() -> None:
    assert order_test([np.zeros((8, 8))]).p_value == 1
    assert order_test([]).p_value == 1


def test_layers_are_paired_in_their_order() -> None:
    scores = np.full((3, 4), -1.0)
    scores[0, 0] = scores[1, 2] = scores[2, 3] = 1.0
    scores[2, 1] = 0.9
    assert in_order(scores) == ((0, 0), (1, 2), (2, 3))
    assert in_order(-np.ones((2, 2))) == ()


@pytest.mark.parametrize("width", [1, 2, 8, 16, 23, 24, 48, 100, 768, 4096, 5120])
def test_no_unit_is_both_in_the_basis_and_tested(width: int) -> None:
    units = choose(width)
    assert not set(units.basis) & set(units.tested)
    assert set(units.numbers) <= set(range(width))
    assert len(units.basis) <= 64
    assert len(units.tested) <= 128
