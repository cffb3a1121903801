"""Whole files of nonsense through every command: see structures.py for the long run."""

from __future__ import annotations

import pytest

from tests.hostile.structures import run


@pytest.mark.parametrize("seed", range(0, 80, 20))
def test_no_shape_dtype_or_name_brings_a_command_down(seed: int) -> None:
    assert run(20, seed, 3) == []
