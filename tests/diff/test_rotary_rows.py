"""Numbers that a hostile file may hold, where rows are compared in other orders."""

from __future__ import annotations

from math import inf

import numpy as np

from qkvinspect.diff.rotary_rows import _error


def test_squares_beyond_float64_are_no_order_and_no_warning() -> None:
    usual, huge = np.ones((4, 8)), np.full((4, 8), 1e200)
    index = np.arange(4)
    assert _error([(usual, huge)], index) == _error([(huge, usual)], index) == inf
    assert _error([(usual, usual)], index) == 0
