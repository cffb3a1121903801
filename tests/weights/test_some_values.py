"""Some rows and columns of a tile are what the whole tile has there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.strided import strided_matrix
from qkvinspect.weights.values import value_tiles

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int8, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_some_values_are_those_of_the_whole(dtype: torch.dtype, turned: bool, tmp_path: Path) -> None:
    values = torch.randn(40, 24, generator=torch.Generator().manual_seed(0)).mul(20).to(dtype)
    save_file({"w": values}, tmp_path / "a.safetensors")
    rows, cols = np.array([3, 1, 7]), np.array([0, 5, 2, 11])
    with open_checkpoint(str(tmp_path / "a.safetensors")) as checkpoint:
        matrix = strided_matrix(checkpoint.tensors["w"], "out_in")
        tiles = list(value_tiles(matrix.transposed if turned else matrix, 600))
        whole = (values.T if turned else values).double().numpy()
        for tile in tiles:
            ours = rows[rows < tile.rows.stop - tile.rows.start]
            across = cols[cols < tile.cols.stop - tile.cols.start]
            found = tile.some(ours, across)
            assert np.array_equal(found, whole[tile.rows, tile.cols][ours][:, across])
        assert len(tiles) > 1 or dtype.itemsize == 1
