"""Heads one to one, and layers in their order."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from qkvinspect.errors import UsageError
from qkvinspect.weights.reading import Array

Pairs = tuple[tuple[int, int], ...]


def one_to_one(scores: Array) -> Pairs:
    """The pairs of a row and a column whose scores have the greatest sum, as many as the smaller side has.

    Raises:
        UsageError: scipy, which solves it, is not installed.
    """
    try:
        optimize: Any = import_module("scipy.optimize")  # which has no types
    except ModuleNotFoundError:
        hint = "pip install 'qkvinspect[lineage]'"
        raise UsageError("pairing heads needs scipy, which is not installed", hint=hint) from None
    rows, cols = optimize.linear_sum_assignment(-scores)
    return tuple(zip(rows.tolist(), cols.tolist(), strict=True))


def in_order(scores: Array) -> Pairs:
    """The pairs, in the order of both sides, whose positive scores have the greatest sum."""
    rows, cols = scores.shape
    best = np.zeros((rows + 1, cols + 1))
    for i in range(1, rows + 1):
        for j in range(1, cols + 1):
            best[i, j] = max(best[i - 1, j], best[i, j - 1], best[i - 1, j - 1] + scores[i - 1, j - 1])
    found: list[tuple[int, int]] = []
    i, j = rows, cols
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append((i, j))
    return tuple(reversed(found))
