"""Settings, configs, indexes, baselines, manifests, rows and journals, changed: see side_files.py for the long run."""

from __future__ import annotations

import pytest

from tests.hostile.side_files import run


@pytest.mark.parametrize("seed", [0, 1_000_000])
def test_no_file_beside_a_checkpoint_brings_a_command_down(seed: int) -> None:
    assert run(25, seed) == []
