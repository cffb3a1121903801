"""Quantisation left a head far fewer steps than its peers.

It lost a quarter of its values, and over three times as much as the median head.
Where one scale holds for many heads, a head of small values has only the lowest codes: a part of it, or all, becomes
zero. The loss is estimated without the original: values that were rounded to codes are spread evenly within half a step
of them, which gives an expected root mean square error, taken relative to that of the values. A head of which nothing
is left is reported by ``zero-head``.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, sqrt
from statistics import median
from typing import TYPE_CHECKING

from qkvinspect.checks.subject import Fault, Subject, heads_named
from qkvinspect.finding_codes import FindingCode
from qkvinspect.weights.adapters import is_sum
from qkvinspect.weights.weight import DecodedMatrix

if TYPE_CHECKING:
    from qkvinspect.inspection.report import Part

CODE: FindingCode = FindingCode.COARSE_HEAD

TIMES = 3.0
LEAST = 0.25
FEWEST = 3
_AT_ONCE = 1 << 19  # values of a head that are decoded at once


def find(subject: Subject) -> Iterator[Fault]:
    for layer, part, _, _ in subject.heads():
        if part.weight.encoding is None or is_sum(part.weight) or len(part.heads) < FEWEST:
            continue
        errors = [_expected_error(part, rows) for rows in part.heads]
        if any(error is None for error in errors):
            continue
        known = [error for error in errors if error is not None]
        usual = median(known)
        odd = [head for head, error in enumerate(known) if error > LEAST and error > TIMES * usual]
        if odd and isfinite(usual):
            worst = max(known[head] for head in odd)
            size = "all of its values" if worst >= 1 else f"about {100 * worst:.0f} % of its values"
            text = f"{part.name.upper()} lost more in {heads_named(odd)} than its peers when it was quantised"
            yield layer, f"{text}: {size}, the median head {100 * usual:.2g} %"


def _expected_error(part: Part, rows: range) -> float | None:
    """The relative error that rounding a head to its codes is expected to make; None where nothing was rounded."""
    import numpy as np

    matrix = part.weight.as_matrix(part.orientation)
    if not isinstance(matrix, DecodedMatrix):
        return None
    wide = max(_AT_ONCE // max(len(rows), 1), 1)
    lost = held = 0.0
    for start in range(0, matrix.cols, wide):
        piece = matrix.take(rows).transposed.take(range(start, min(start + wide, matrix.cols))).transposed
        slack = piece.slack()
        if slack is None:
            return None
        with np.errstate(all="ignore"):
            finite = np.isfinite(slack)
            lost += float(np.square(np.where(finite, slack, 0), dtype=np.float64).sum()) / 3
            held += float(np.square(np.where(finite, piece.decode(), 0), dtype=np.float64).sum())
    if not isfinite(held) or not isfinite(lost):
        return None
    return sqrt(lost / held) if held else 0.0
