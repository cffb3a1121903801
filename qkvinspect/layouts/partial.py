"""Rows for modules of which a file holds only some projections, and nothing beside them: an adapter's.

What tells some rows from others stands beside the projections, where an adapter has nothing. Such rows are meant
where the base's config names the kind of model that is stored so. A gate among the queries is what no name of a
projection shows: it is meant where the base's config or its own name says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import combinations

from qkvinspect.fast_dataclass import replace
from qkvinspect.late_pattern import late_pattern
from qkvinspect.layouts.layout import Layout

_GATED_NAME = late_pattern(r"qwen[-_. ]?3[-_. ]?(next|5)", re.IGNORECASE)


def bare(layouts: Iterable[Layout], base: Iterable[str]) -> Iterator[Layout]:
    """Each layout that is told from others by what stands beside its projections, without that.

    Args:
        base: what the model is called that the adapter is for, and its kind.
    """
    base = list(base)
    gated = any(map(_GATED_NAME.search, base))
    for layout in layouts:
        said = any(fnmatchcase(kind, glob) for kind in base for glob in layout.model_types)
        if _is_told_by_others(layout) and (gated if _has_gate(layout) else said):
            yield _alone(layout)


def partial(layouts: Iterable[Layout], base: Iterable[str]) -> Iterator[Layout]:
    """Each layout for every choice of some of its projections."""
    layouts = list(layouts)
    for layout in (*(_alone(one) for one in layouts if not _is_told_by_others(one)), *bare(layouts, base)):
        for count in range(1, len(layout.weights)):
            for weights in combinations(layout.weights, count):
                yield replace(layout, weights=weights)


def _is_told_by_others(layout: Layout) -> bool:
    return bool(layout.siblings or layout.unless or layout.out_ratio is not None)


def _alone(layout: Layout) -> Layout:
    return replace(layout, siblings=(), unless=(), out_ratio=None, supersedes=())


def _has_gate(layout: Layout) -> bool:
    """Whether a gate lies among the queries."""
    return any({"q", "gate"} <= set(stored.packing.order) for stored in layout.weights)
