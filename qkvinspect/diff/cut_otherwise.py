"""Q, K and V that were cut out of a fused tensor as if it were packed otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import permutations

import numpy as np

from qkvinspect.diff.fingerprint import Numbers
from qkvinspect.diff.origin import ENOUGH, Index
from qkvinspect.errors import LayoutError
from qkvinspect.layouts.packing import GROUPED, PER_HEAD, QKV, Geometry, Packing, split_rows

_PARTS = ("q", "k", "v")

PACKINGS: Mapping[str, Packing] = {
    "in blocks [Q; K; V]": QKV,
    "per head": PER_HEAD,
    "per kv head": GROUPED,
    "row by row": Packing(_PARTS, groups="heads", slot_innermost=True),
    "in 4 groups of q, v, k": Packing(("q", "v", "k"), groups=4),
}


def find_recut(a: Mapping[str, Numbers], b: Mapping[str, Numbers], sizes: Iterable[Geometry]) -> tuple[str, str] | None:
    """The packing that A has, and the wrong one by which B's parts were cut; None where no two packings explain B."""
    ours, theirs = (np.concatenate([side[part] for part in _PARTS]) for side in (a, b))
    if len(ours) != len(theirs):
        return None
    kept = (ours == theirs).mean()
    for geometry in sizes:
        found = {label: _order(packing, geometry, a) for label, packing in PACKINGS.items()}
        orders = {label: order for label, order in found.items() if order is not None}
        for lies, cut in permutations(orders, 2):
            stored = np.empty_like(ours)
            stored[orders[lies]] = ours
            if (stored[orders[cut]] == theirs).mean() >= max(ENOUGH, np.nextafter(kept, 2)):
                return lies, cut
    return None


def _order(packing: Packing, geometry: Geometry, parts: Mapping[str, Numbers]) -> Index | None:
    """For each row of Q, K and V, in this order, its index in the fused tensor; None where the sizes do not fit."""
    lengths = [len(parts[part]) for part in _PARTS]
    try:
        rows = split_rows(packing, geometry, sum(lengths))
    except LayoutError:
        return None
    if [sum(map(len, rows[part])) for part in _PARTS] != lengths:
        return None
    return np.array([row for part in _PARTS for run in rows[part] for row in run])
