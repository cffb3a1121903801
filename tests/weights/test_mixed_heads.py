"""Heads in another order and basis, and sums of heads: any part of them is that of numpy's product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.errors import LayoutError
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.mixed_heads import mixed, mixed_bias
from qkvinspect.weights.values import columns, rows_of_values

RNG = np.random.default_rng(0)
HEADS, WIDTH, INPUTS = 4, 6, 10
ROWS = tuple(range(head * WIDTH, (head + 1) * WIDTH) for head in range(HEADS))
TURN, OTHER = RNG.normal(size=(2, WIDTH, WIDTH))
TERMS = (((2, None),), ((0, TURN),), ((3, OTHER), (1, TURN)), ((1, None), (0, None)))
"""One head as it was, one turned, and two that are sums of two."""


def expected(stored: np.ndarray) -> np.ndarray:
    """Of [heads * width, inputs]."""
    heads = stored.astype(np.float64).reshape(HEADS, WIDTH, -1)
    made = [sum((np.eye(WIDTH) if turn is None else turn) @ heads[head] for head, turn in terms) for terms in TERMS]
    return np.concatenate(made)


@pytest.mark.parametrize("inputs", [False, True])
def test_any_rows_and_columns_are_those_of_the_product(inputs: bool, tmp_path: Path) -> None:
    values = RNG.normal(size=(INPUTS, HEADS * WIDTH) if inputs else (HEADS * WIDTH, INPUTS)).astype(np.float32)
    save_file({"w": torch.from_numpy(values)}, tmp_path / "m.safetensors")
    whole = expected(values.T).T if inputs else expected(values)
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        weight = mixed(weights_of(checkpoint)["w"], "out_in", ROWS, TERMS, inputs=inputs)
        assert weight.shape == whole.shape
        matrix = weight.as_matrix("out_in")
        assert columns(matrix) == whole.shape[1]
        for rows in (range(len(whole)), range(1, len(whole), 4), range(3, 9), range(len(whole) - 1, len(whole))):
            found = rows_of_values(matrix, [rows])
            np.testing.assert_allclose(found, whole[rows.start : rows.stop : rows.step], rtol=1e-12)
        assert weight.encoding
        np.testing.assert_allclose(weight.encoding.decode(range(2, 9), range(5, 8)), whole[2:9, 5:8], rtol=1e-12)
        assert "w in another basis" in weight.encoding.label
        with pytest.raises(LayoutError, match="stored nowhere"):
            weight.encoding.cut([range(2)])


def test_a_bias_goes_with_its_heads(tmp_path: Path) -> None:
    values = RNG.normal(size=HEADS * WIDTH).astype(np.float32)
    save_file({"b": torch.from_numpy(values)}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        bias = mixed_bias(weights_of(checkpoint)["b"], ROWS, TERMS)
        assert bias.shape == values.shape
        found = rows_of_values(bias.as_matrix("out_in"), [range(len(values))])
    np.testing.assert_allclose(found.ravel(), expected(values[:, None]).ravel(), rtol=1e-12)
