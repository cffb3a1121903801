"""The recipe of docs/runs.md for Ray, as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_recipe_scans_everything_once(training: Path, run) -> None:
    pytest.importorskip("ray")
    before, _, rest = (ROOT / "docs" / "runs.md").read_text().partition("import ray\n")
    code = before.rpartition("```python\n")[2] + "import ray\n" + rest.partition("```")[0]
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=300)
    assert run("scan", "run", "-o", "whole.jsonl").code == 0
    rows = [line for shard in range(1, 9) for line in Path(f"rows-{shard}.jsonl").read_text().splitlines()]
    assert sorted(rows) == sorted(Path("whole.jsonl").read_text().splitlines())
