"""What is said where no attention was found depends on what is there instead."""

from __future__ import annotations

import pytest

from qkvinspect.checks.faults import no_attention
from qkvinspect.checks.subject import Subject
from tests.inspection.test_patterns import report


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"x.fc.weight": (5, 4)}, "none of its 1 tensors"),
        ({f"b.{n}.xlstm.{part}_proj.weight": (32, 4, 4) for part in "qkv" for n in range(2)}, "2 modules look like it"),
        (
            {f"b.self_attn.{part}_proj.weight": (size, 16, 64) for part, size in (("q", 4), ("k", 2), ("v", 2))},
            "shapes that it cannot have",
        ),
    ],
)
def test_names_are_not_denied(shapes: dict[str, tuple[int, ...]], said: str) -> None:
    ((_, message),) = no_attention.find(Subject(report(shapes)))
    assert said in message
