"""Files of nonsense through every command: see structures.py and mass_structures.py for the long runs."""

from __future__ import annotations

import pytest

from tests.here import kept_commands, scans_here
from tests.hostile import mass_structures
from tests.hostile.structures import run
from tests.some import first


@pytest.mark.parametrize("seed", first(1, [0, 1000, 2000]))
def test_no_shape_dtype_or_name_brings_a_command_down(seed: int) -> None:
    with scans_here(), kept_commands():
        assert run(35, seed, 3).faults == []


def test_many_layers_of_nonsense_do_not_either() -> None:
    with scans_here(), kept_commands():
        assert run(60, 1_000_000, 3, layers=24).faults == []


@pytest.mark.parametrize("count", first(1, [600, 1200]))
@pytest.mark.gate
def test_no_small_change_in_any_format_brings_a_command_down(count: int) -> None:
    found = mass_structures.run(count, 2_000_000_000)
    assert not found.faults
    assert len(found.kinds) == 19
    assert len(found.commands) > 9
    assert {*found.codes} == {"0", "1", "2"}


def test_the_page_says_what_was_tried() -> None:
    assert mass_structures.PAGE.read_text().endswith(mass_structures.page(mass_structures.loaded()))
