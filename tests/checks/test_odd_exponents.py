"""Sizes of values in blocks: counted as numpy tells them, and blocks unlike the others found where they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from qkvinspect.checks.damage import odd_exponents
from qkvinspect.checks.damage.odd_exponents import GAPS, LARGE, SMALL, counts, odd, step
from qkvinspect.dtypes import DTYPES

FLOATS = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"]
LOWEST, SIZES = -48, 64


def words(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view({1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}[tensor.itemsize]).numpy()


@pytest.mark.parametrize("name", FLOATS)
def test_counts_are_those_of_numpy_s_exponents(name: str) -> None:
    """Of each block, over all sizes that the dtype has, down to the least that are told apart; zeros are the last."""
    dtype = getattr(torch, name)
    each = step(dtype.itemsize) // dtype.itemsize
    generator = torch.Generator().manual_seed(0)
    info = torch.finfo(dtype)
    low = max(np.log2(info.smallest_normal), LOWEST - 20)
    high = min(np.log2(info.max), LOWEST + SIZES + 20)
    powers = torch.rand(3 * each + 5, generator=generator, dtype=torch.float64) * (high - low) + low
    values = torch.exp2(powers) * torch.randn(len(powers), generator=generator, dtype=torch.float64).sign()
    values[::7] = 0
    tensor = values.to(dtype)
    found = counts(words(tensor), DTYPES[name])
    assert found.shape == (3, SIZES + 1)
    for block, part in zip(found, tensor.double().numpy()[: 3 * each].reshape(3, each), strict=True):
        sizes = np.clip(np.frexp(part[part != 0])[1] - 1 - LOWEST, 0, SIZES - 1)
        assert block.tolist() == [*np.bincount(sizes, minlength=SIZES), (part == 0).sum()]


def blocks(many: int, seed: int = 0, each: int = 256) -> np.ndarray:
    """Float32 values of normal noise: [blocks, values]."""
    return np.random.default_rng(seed).normal(size=(many, each)).astype(np.float32)


def odd_of(values: np.ndarray) -> list[tuple[int, int, str]]:
    return odd(counts(values.ravel().view(np.uint32), DTYPES["float32"]), 4)


def without_a_size(values: np.ndarray) -> np.ndarray:
    """Those of one size halved: a valley where the others have a hill."""
    return np.where(np.frexp(values)[1] == -1, values / 2, values)


CHANGES = {
    "too large": (lambda values: values * np.float32(2.0**20), LARGE),
    "too small": (lambda values: values * np.float32(2.0**-20), SMALL),
    "without a size": (without_a_size, GAPS),
}
SIZE = 8


@pytest.mark.parametrize("many", [50, 80])
@pytest.mark.parametrize("place", ["the first", "some", "the last"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_run_of_blocks_unlike_the_others_is_placed(change: str, place: str, many: int) -> None:
    """To a block or two: windows of three are judged."""
    values = blocks(many)
    changed, what = CHANGES[change]
    start = {"the first": 0, "some": many // 2 - 3, "the last": many - SIZE}[place]
    stop = start + SIZE
    values[start:stop] = changed(values[start:stop])
    found = odd_of(values)
    ((first, last),) = [(first, last) for first, last, said in found if said == what]
    assert max(start - 2, 0) <= first <= start + 1
    assert stop - 1 <= last <= min(stop + 2, many)
    assert all(start - 3 < first and last < stop + 3 for first, last, _ in found)


def test_noise_zeros_and_a_slope_of_sizes_are_silent() -> None:
    assert odd_of(blocks(80)) == []
    assert odd_of(np.zeros((80, 256), np.float32)) == []
    assert odd_of(blocks(80) * np.exp2(np.linspace(-3, 3, 80, dtype=np.float32))[:, None]) == []
    assert odd_of(blocks(1)) == []


@pytest.mark.parametrize("window", [1, 2, 5])
def test_sums_of_neighbouring_blocks_are_numpy_s(window: int) -> None:
    values = np.random.default_rng(0).integers(0, 60_000, (9, 4)).astype(np.uint16)
    expected = sliding_window_view(values.astype(np.int64), window, axis=0).sum(axis=-1)
    np.testing.assert_array_equal(odd_exponents._sliding(values, window), expected)


def test_a_gap_is_what_is_less_than_both_a_larger_and_a_smaller_size() -> None:
    hill = np.array([[0, 2, 30, 400, 900, 300, 20, 1, 0]])
    valley = np.array([[0, 100, 30, 80, 0, 0]])
    found = odd_exponents._gaps(np.concatenate([np.pad(hill, ((0, 0), (0, 3))), np.pad(valley, ((0, 0), (0, 6)))]))
    assert found[0] == 0
    assert found[1] == pytest.approx((80 - 30) / (80 + 30 + 1) ** 0.5)
