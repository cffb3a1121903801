"""How far a number may be from what its code stands for."""

from __future__ import annotations

import numpy as np

from qkvinspect.dtypes import DTYPES
from qkvinspect.weights.affine import AffineBlock


def test_half_a_step_and_what_is_lost_where_all_is_computed_in_a_narrow_dtype() -> None:
    """A whole step at the ends; what is lost is in the scale and the quotient, of the code less its zero, and in it."""
    codes = np.array([[0, 1, 3, 15]], np.float32)
    block = AffineBlock(codes, np.array([[0.5]], np.float32), DTYPES["float16"], 0, 4, zeros=4.0)
    lost = 0.5 * 2.0**-11
    assert block.slack(15).tolist() == [
        [0.5 + (0 + 2 * 4) * lost, 0.25 + (1 + 2 * 3) * lost, 0.25 + (3 + 2 * 1) * lost, 0.5 + (15 + 2 * 11) * lost]
    ]


def test_a_bias_is_rounded_too() -> None:
    codes = np.array([[1, 2]], np.float32)
    scales, biases = np.array([[0.5]], np.float32), np.array([[-1.0]], np.float32)
    block = AffineBlock(codes, scales, DTYPES["bfloat16"], 0, 2, biases=biases)
    lost = 0.5 * 2.0**-8
    assert block.slack(3).tolist() == [[0.25 + 3 * lost + 2.0**-8, 0.25 + 6 * lost + 2.0**-8]]
