"""Settings, configs, indexes, baselines, manifests, rows and journals, changed: see side_files.py for the long run."""

from __future__ import annotations

import pytest

from tests.here import kept_commands, scans_here
from tests.hostile.side_files import run
from tests.some import first


@pytest.mark.parametrize(("count", "seed"), first(1, [(12, 0), (25, 0), (25, 1_000_000)]))
@pytest.mark.gate
def test_no_file_beside_a_checkpoint_brings_a_command_down(count: int, seed: int) -> None:
    with scans_here(), kept_commands():
        assert run(count, seed) == []
