"""Scales of one byte in the order in which cuBLAS reads them: tiles of 128 rows and 4 columns, each of 512 bytes.

In a tile the rows come in the order 0, 32, 64, 96, 1, 33, ...; tiles follow each other row by row, and what is missing
to whole tiles is filled up. Source: cuBLAS, 1D block scaling factors layout; comfy-kitchen 0.2.40, to_blocked.
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import TensorInfo

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

TILE_ROWS = 128
_TILE_COLUMNS = 4


def tiled_shape(rows: int, columns: int) -> tuple[int, int]:
    """What whole tiles for so many scales hold, [rows, columns]."""
    return ceil(rows / TILE_ROWS) * TILE_ROWS, ceil(columns / _TILE_COLUMNS) * _TILE_COLUMNS


def tiled_bytes(info: TensorInfo, columns: int, rows: range, wanted: range) -> Array:
    """The bytes of some scales: uint8 [rows, columns].

    Args:
        info: the scales, of one byte each, in one run of bytes.
        columns: how many scales a row has.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    import numpy as np

    across = ceil(columns / _TILE_COLUMNS)
    first, last = (row // TILE_ROWS for row in sorted((rows[0], rows[-1])))
    size = prod((across, TILE_ROWS, _TILE_COLUMNS))
    data = info.region.read(info.offset + first * size, (last - first + 1) * size)
    tiles = np.frombuffer(data, np.uint8).reshape(-1, across, 32, 4, _TILE_COLUMNS)
    every = tiles.transpose(0, 3, 2, 1, 4).reshape(-1, across * _TILE_COLUMNS)
    down = np.arange(rows.start, rows.stop, rows.step) - first * TILE_ROWS
    return every[down, wanted.start : wanted.stop]
