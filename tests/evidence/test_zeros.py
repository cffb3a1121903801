"""Where zeros lie says nothing about heads: pruned in blocks, padded, or rounded to few values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qkvinspect.findings import AGAINST_WEIGHTS
from qkvinspect.inspection.evidence import zeros
from tests.evidence import cases
from tests.real import wheels
from tests.some import crossed

LABELS = "sceptr/SCEPTR", "sapiens/checkpoint_vl", "anarcii/tcr_4_1_128_512"
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def others() -> dict[str, cases.Trained]:
    with wheels.skipped_offline():
        return {one.label: one for one in cases.others()}


def blocks(tall: int, wide: int, share: float) -> Change:
    """The blocks with the smallest values are zero, as structured pruning leaves them."""

    def change(values: np.ndarray) -> np.ndarray:
        parted = values.reshape(values.shape[0] // tall, tall, values.shape[1] // wide, wide)
        sizes = (parted**2).sum(axis=(1, 3), keepdims=True)
        return (parted * (sizes >= np.quantile(sizes, share))).reshape(values.shape)

    return change


def rounded(levels: int) -> Change:
    """One scale for the whole tensor, which its largest value sets."""

    def change(values: np.ndarray) -> np.ndarray:
        scale = np.abs(values).max() / levels
        return np.round(values / scale) * scale

    return change


def pruned(share: float) -> Change:
    return lambda values: values * (np.abs(values) > np.quantile(np.abs(values), share))


def changed(layer: cases.Layer, change: Change) -> cases.Layer:
    weights = {part: change(values).astype(np.float32) for part, values in layer.weights.items()}
    return replace(layer, weights=weights, out=change(layer.out).astype(np.float32))


def padded(layer: cases.Layer, heads: int, rows: int) -> cases.Layer:
    """So many rows of zeros after each head."""

    def taller(values: np.ndarray) -> np.ndarray:
        each = values.reshape(heads, -1, *values.shape[1:])
        return np.pad(each, ((0, 0), (0, rows), *(((0, 0),) * (values.ndim - 1)))).reshape(-1, *values.shape[1:])

    return cases.Layer(
        {part: taller(values) for part, values in layer.weights.items()},
        {part: taller(values) for part, values in layer.biases.items()},
        np.ascontiguousarray(taller(np.ascontiguousarray(layer.out.T)).T),
    )


def said(layers: list[cases.Layer], path: Path, heads: int) -> tuple[set[int | None], set[str]]:
    """The numbers of heads, and what was said against them where they are known."""
    cases.apart(layers, path)
    found = [cases.weigh(path), cases.weigh(path, claim=heads)]
    against = {str(finding.code) for one in found for finding in one.findings if finding.code in AGAINST_WEIGHTS}
    return {one.heads.num_heads if one.heads else None for one in found[0].attentions}, against


@crossed(label=LABELS, block=[(8, 8), (16, 16), (32, 32), (1, 32), (16, 1)], share=[0.3, 0.8])
def test_of_zeros_in_blocks_nothing_is_said(
    others, label: str, block: tuple[int, int], share: float, tmp_path: Path
) -> None:
    one = others[label]
    layers = [changed(layer, blocks(*block, share)) for layer in cases.layers(one.path)[:2]]
    heads, against = said(layers, tmp_path / "blocks.safetensors", one.heads)
    assert (heads - {one.heads, None}, against) == (set(), set())


@crossed(label=LABELS, share=[2, 3, 4, 8])
def test_padded_heads_are_not_others(others, label: str, share: int, tmp_path: Path) -> None:
    one = others[label]
    layers = cases.layers(one.path)[:2]
    rows = len(layers[0].weights["q"]) // one.heads // share
    padding = [padded(layer, one.heads, rows) for layer in layers]
    assert said(padding, tmp_path / "padded.safetensors", one.heads) == ({None}, set())


@crossed(label=LABELS, levels=[1, 2, 3, 7])
def test_few_values_make_no_other_heads(others, label: str, levels: int, tmp_path: Path) -> None:
    one = others[label]
    layers = [changed(layer, rounded(levels)) for layer in cases.layers(one.path)[:2]]
    heads, against = said(layers, tmp_path / "rounded.safetensors", one.heads)
    assert (heads - {one.heads, None}, against) == (set(), set())


@crossed(label=LABELS, share=[0.3, 0.6, 0.8])
def test_values_that_are_pruned_one_by_one_still_tell_the_heads(
    others, label: str, share: float, tmp_path: Path
) -> None:
    one = others[label]
    layers = [changed(layer, pruned(share)) for layer in cases.layers(one.path)[:2]]
    assert said(layers, tmp_path / "pruned.safetensors", one.heads) == ({one.heads}, set())


def test_zeros_by_chance_whole_rows_and_whole_columns_are_no_blocks() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(64, 96)) * (rng.random((64, 96)) < 0.5)
    assert not zeros.in_blocks(values)
    values[:, 24:48] = 0
    assert not zeros.in_blocks(values)
    values[16:32] = 0
    assert not zeros.in_blocks(values)
    values[48:64] = 0
    assert zeros.in_blocks(values), "one in two: as padded heads are"
    assert zeros.in_blocks(np.tril(rng.normal(size=(64, 64))))


def test_rows_without_a_common_column_are_not_compared() -> None:
    values = np.zeros((4, 6))
    values[0, 0] = values[1, 0] = values[2, 1] = 1
    unknown = zeros.incomparable(values)
    assert unknown is not None
    expected = np.ones((4, 4), np.bool_)
    expected[:2, :2] = expected[2, 2] = False
    assert unknown.tolist() == expected.tolist()
    assert zeros.incomparable(np.ones((4, 6))) is None
    assert not zeros.too_few(values)
    assert zeros.too_few(np.eye(4, 6))
    assert zeros.too_few(np.zeros((4, 6)))
    assert not zeros.too_few(np.ones((4, 6)))


def test_noise_is_symmetric_and_always_the_same() -> None:
    found = zeros.noise(50)
    assert (found == found.T).all()
    assert (found == zeros.noise(50)).all()
    assert not found.diagonal().any()
    assert abs(float(found[np.triu_indices(50, 1)].std()) - 1) < 0.05
