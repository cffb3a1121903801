"""A model in short: how many parameters, of which dtypes, of which architecture."""

from __future__ import annotations

from collections import Counter

from qkvinspect.inspection.report import Report


def in_short(report: Report) -> list[str]:
    """Parameters, dtypes and architecture, as short texts."""
    found = [f"{quantity(report.num_parameters)} parameters", *_dtypes(report.dtypes)]
    return [*found, *([report.architecture] if report.architecture else [])]


def _dtypes(counted: Counter[str]) -> list[str]:
    total = sum(counted.values())
    if not total:
        return []
    first, count = counted.most_common(1)[0]
    rest = len(counted) - 1
    others = f" and {rest} other{'s' * (rest > 1)}" if rest else ""
    share = f" ({100 * count / total:.3g} %)" if others else ""
    return [f"{first}{share}{others}"]


def quantity(number: int) -> str:
    """A number of parameters as people say it: ``41.9M``."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
