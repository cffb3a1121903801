"""How heads are read together: as many as fit in memory, and each of them once."""

from __future__ import annotations

import pytest

from qkvinspect.checks import head_values


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], []),
        ([3], [(0, 1)]),
        ([9], [(0, 1)]),
        ([2, 2, 1], [(0, 3)]),
        ([3, 3, 3], [(0, 1), (1, 2), (2, 3)]),
        ([9, 1, 4, 1], [(0, 1), (1, 3), (3, 4)]),
        ([1, 9, 1], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_neighbours_that_fit_together(
    sizes: list[int], groups: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_values, "_READ", 5)
    assert list(head_values._groups(sizes)) == groups
