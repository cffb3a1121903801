"""What a run's config says of its ranks."""

from __future__ import annotations

from typing import Any

import pytest

from qkvinspect.checkpoint import Config
from qkvinspect.inspection.facts.shares import ranks


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"tensor_model_parallel_size": 4}, 4),
        ({"mp_world_size": 2}, 2),
        ({"tensor_model_parallel_size": 1}, None),
        ({"tensor_model_parallel_size": 1, "mp_world_size": 8}, 8),
        ({"tensor_model_parallel_size": 0}, None),
        ({"tensor_model_parallel_size": "4"}, None),
        ({"tensor_model_parallel_size": True}, None),
        ({"tensor_model_parallel_size": None}, None),
        ({}, None),
    ],
)
def test_ranks(values: dict[str, Any], count: int | None) -> None:
    assert ranks(Config("config:config.json", values)) == count
