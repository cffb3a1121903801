"""Whole files of nonsense through every command: see structures.py for the long run."""

from __future__ import annotations

import pytest

from tests.hostile.structures import run


@pytest.mark.parametrize("seed", [0, 1000, 2000])
def test_no_shape_dtype_or_name_brings_a_command_down(seed: int) -> None:
    assert run(35, seed, 3).faults == []


def test_many_layers_of_nonsense_do_not_either() -> None:
    assert run(60, 1_000_000, 3, layers=24).faults == []
