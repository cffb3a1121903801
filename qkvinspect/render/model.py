"""A model in short, as the first line says it."""

from __future__ import annotations

from collections.abc import Mapping

from qkvinspect.inspection import model
from qkvinspect.inspection.report import Report


def in_short(report: Report) -> list[str]:
    """Parameters, dtypes and architecture, as short texts."""
    found = model.in_short(report.checkpoint, report.weights)
    facts = [f"{quantity(found.num_parameters)} parameters", *_dtypes(found.dtypes)]
    return [*facts, *([found.architecture[:_LONGEST]] if found.architecture else [])]


_LONGEST = 80


def _dtypes(counted: Mapping[str, int]) -> list[str]:
    total = sum(counted.values())
    if not total:
        return []
    first, rest = next(iter(counted)), len(counted) - 1
    others = f" and {rest} other{'s' * (rest > 1)}" if rest else ""
    share = f" ({100 * counted[first] / total:.3g} %)" if others else ""
    return [f"{first}{share}{others}"]


def quantity(number: int) -> str:
    """A number of parameters as people say it: ``41.9M``."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
