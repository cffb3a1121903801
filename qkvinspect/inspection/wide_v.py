"""The two readings of a fused tensor whose rows are not three times what the output projection reads.

Q is that wide and several of its heads share one of K and V; or V is, and Q and K are narrower or wider. A name that
many libraries have says neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from math import gcd

from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.candidates import Candidate, DecidedBy, Match
from qkvinspect.inspection.facts.fact import HeadFact
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.words import word_of
from qkvinspect.layouts import Layout
from qkvinspect.layouts.layout import PATTERN

WIDE_V = f"{PATTERN}-wide-v"
"""What the second reading is called."""

_SIMPLE = 4
"""The greatest of the two small numbers that V is to Q and K as."""


def with_wide_v(candidates: Iterable[Candidate], names: Names) -> list[Candidate]:
    """The candidates, each with its second reading behind it if it has one, or that alone where only that fits."""
    return [reading for one in candidates for reading in _readings(one, names)]


def by_heads(found: Match, names: Names, facts: Callable[[Candidate], Iterable[HeadFact]]) -> Match:
    """The match with that of its two readings which a known number of heads allows; itself where none tells."""
    if len(found.candidates) != 2 or found.candidates[1].layout.id != WIDE_V:
        return found
    first, wide = found.candidates
    q, k = _widths(first, names)
    for fact in facts(first):
        heads, kv = fact.num_heads, fact.num_kv_heads
        if heads is None or fact.elsewhere or fact.refuted:
            continue
        shared = q % heads == 0 and k % (q // heads) == 0 and kv in (None, k // (q // heads))
        apart = q % heads == 0 and k % heads == 0 and kv in (None, heads)
        if shared != apart:
            origin = fact.config or fact.origin
            return Match((first if shared else wide,), DecidedBy.CONFIG, origin)
    return found


def _readings(one: Candidate, names: Names) -> Iterator[Candidate]:
    q, k = _widths(one, names) if _may_be_of_any(one.layout) else (0, 0)
    if q == k:
        yield one
        return
    shared, common = q % k == 0, gcd(q, k)
    if shared or common == 1 or max(q, k) > _SIMPLE * common:
        yield one
    if common > 1 and (shared or max(q, k) <= _SIMPLE * common):
        yield replace(one, layout=_wide(one.layout), settled=False)


def _may_be_of_any(layout: Layout) -> bool:
    """Whether nothing but a name that says no more than Q, K and V led to the row."""
    return (
        [(stored.packing.order, stored.packing.groups) for stored in layout.weights] == [(("q", "k", "v"), "one")]
        and (layout.kv_heads, layout.v_free, layout.layer, layout.siblings) == ("free", False, "", ())
        and layout.found_by == "layout"
        and layout.glob == "*"
        and all(word_of(stored.key.split(".")[0]) for stored in layout.weights)
    )


def _widths(one: Candidate, names: Names) -> tuple[int, int]:
    """(rows of Q, of K) where Q is as wide as the output projection reads; 0 both where there is none."""
    out = names.find_first(one.layout.out, one.path)
    try:
        ((rows, _),) = one.shapes
        q = out.as_shape(one.layout.out_orientation)[1] if out is not None and len(out.shape) > 1 else 0
    except LayoutError:
        return 0, 0
    k, odd = divmod(rows - q, 2)
    return (0, 0) if odd or q < 1 or k < 1 else (q, k)


@lru_cache
def _wide(layout: Layout) -> Layout:
    return replace(
        layout,
        id=WIDE_V,
        libraries=f"not known; {layout.weights[0].key} with a V that is wider or narrower than Q and K",
        kv_heads="equal",
        v_free=True,
        model_types=(),
        flags={},
        settled_by=(),
        found_by="pattern",
        source="the names and shapes of the tensors themselves",
        proof="pattern",
        note="",
    )
