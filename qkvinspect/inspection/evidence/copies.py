"""Rows that are copies of others, as where K and V are written once for each head that shares them."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.weights.reading import Array

_COPIES = 0.2
"""The share of rows that are copies from which they are more than a head or two: of 4 kv heads for 8 heads a third."""

_LED_BY = 4  # values of rows that are compared before the rest


def written_again(matrices: Sequence[Array]) -> bool:
    """Whether many rows are copies of others: how often each was written is then what ties them, and not the heads."""
    count = sum(map(len, matrices))
    if count - len({row.tobytes() for values in matrices for row in values[:, :_LED_BY]}) < _COPIES * count:
        return False
    rows = [row.tobytes() for values in matrices for row in values[(values != 0).any(axis=1)]]
    return len(rows) - len({*rows}) >= _COPIES * len(rows) > 0
