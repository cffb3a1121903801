"""From shapes and what is known of the heads to the sizes of a module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qkvinspect.errors import LayoutError
from qkvinspect.inspection.heads import MAX_HEADS, HeadFact
from qkvinspect.inspection.match import Candidate
from qkvinspect.layouts import Layout
from qkvinspect.matrix import shape_as_matrix
from qkvinspect.packing import Geometry, Rows, describe, split_rows


@dataclass(frozen=True, slots=True)
class Solution:
    """The sizes of a module and where the number of heads came from.

    Attributes:
        geometry: None where the parts cannot be told apart; one "head" a part where only the number of
            heads is unknown.
        possible: the numbers of heads that the shapes allow.
        rejected: facts that the shapes contradict, and why.
        disagreeing: facts that fit the shapes but say otherwise than the chosen one.

    """

    geometry: Geometry | None
    origin: str
    possible: tuple[int, ...] = ()
    rejected: tuple[tuple[HeadFact, str], ...] = ()
    disagreeing: tuple[tuple[HeadFact, Geometry], ...] = ()

    @property
    def known(self) -> bool:
        """Whether the number of heads is known."""
        return self.origin != "unknown"


def solve(candidate: Candidate, out_features: int | None, facts: Iterable[HeadFact]) -> Solution:
    """Find the sizes that fill the stored tensors and agree with the most trusted fact.

    Args:
        out_features: input width of the output projection, or None: it equals the rows of V's heads.

    """
    layout = candidate.layout
    shapes = [
        shape_as_matrix(info, stored.orientation)
        for info, stored in zip(candidate.weights, layout.weights, strict=True)
    ]
    totals = [rows for rows, _ in shapes]
    part_rows = _part_rows(layout, totals, out_features)
    chosen: tuple[HeadFact, Geometry] | None = None
    rejected: list[tuple[HeadFact, str]] = []
    disagreeing: list[tuple[HeadFact, Geometry]] = []
    for fact in facts:
        try:
            geometry = _geometry(layout, totals, part_rows, fact)
        except LayoutError as error:
            rejected.append((fact, str(error)))
            continue
        if chosen is None:
            chosen = fact, geometry
        elif geometry.num_heads != chosen[1].num_heads and chosen[0].origin != "flag":
            disagreeing.append((fact, geometry))
    if chosen is not None:
        fact, geometry = chosen
        same_source = [g for f, g in disagreeing if _source(f) == _source(fact)]
        if not same_source:
            return Solution(geometry, fact.origin, (), tuple(rejected), tuple(disagreeing))
        disagreeing.insert(0, chosen)
    possible = _possible_heads(part_rows)
    whole = None
    if {part for stored in layout.weights for part in stored.packing.parts} == part_rows.keys():
        whole = Geometry(1, 1, part_rows.get("q", 1), widths=part_rows)
    return Solution(whole, "unknown", possible, tuple(rejected), tuple(disagreeing))


def rows_of(layout: Layout, geometry: Geometry, totals: Sequence[int]) -> list[Rows]:
    """For each stored weight, the rows of every head of every part.

    Raises:
        LayoutError: the geometry does not fill them.

    """
    return [split_rows(stored.packing, geometry, total) for stored, total in zip(layout.weights, totals, strict=True)]


def _source(fact: HeadFact) -> str:
    """The file or object a fact came from, without the key."""
    kind, _, rest = fact.origin.partition(":")
    return kind + rest.partition(":")[0] if kind == "config" else fact.origin


def _part_rows(layout: Layout, totals: Sequence[int], out_features: int | None) -> dict[str, int]:
    """How many rows Q, K and V have, where the shapes alone tell."""
    found: dict[str, int] = {}
    for stored, total in zip(layout.weights, totals, strict=True):
        parts = sorted(stored.packing.parts & {"q", "k", "v"})
        if len(stored.packing.order) == 1:
            found |= dict.fromkeys(parts, total)
        elif set(stored.packing.order) != set(parts) or stored.packing.groups != "one":
            continue
        elif (not layout.grouped_query or parts == ["k", "v"]) and total % len(parts) == 0:
            found |= {part: total // len(parts) for part in parts}
        elif parts == ["k", "q", "v"] and out_features and (total - out_features) % 2 == 0:
            found |= {"q": out_features, "k": (total - out_features) // 2, "v": (total - out_features) // 2}
    return {part: rows for part, rows in found.items() if rows > 0}


def _geometry(layout: Layout, totals: Sequence[int], part_rows: Mapping[str, int], fact: HeadFact) -> Geometry:
    """The sizes that a fact leads to.

    Raises:
        LayoutError: the shapes contradict it.

    """
    heads, head_dim = fact.num_heads, fact.head_dim
    q_rows = part_rows.get("q")
    if heads is None:
        heads = _divide(q_rows, head_dim, "rows of Q", "head_dim") if q_rows and head_dim else None
    if heads is None:
        raise LayoutError("it does not give the number of heads")
    kv_heads = fact.num_kv_heads
    if q_rows is not None:
        width = _divide(q_rows, heads, "rows of Q", "heads")
    else:
        kv_heads = kv_heads or heads
        sides = [part for stored in layout.weights for part in stored.packing.order]
        count = sum(heads if part in ("q", "gate") else kv_heads for part in sides)
        width = _divide(sum(totals), count, "rows", f"{describe(Geometry(heads, kv_heads, 0))} in all")
    if "k" in part_rows:
        kv_heads = _divide(part_rows["k"], width, "rows of K", "head_dim")
    kv_heads = kv_heads or heads
    if fact.origin == "flag" and fact.num_kv_heads not in (None, kv_heads):
        raise LayoutError(f"the shapes say {kv_heads} kv heads, not {fact.num_kv_heads}")
    if heads % kv_heads or heads > MAX_HEADS:
        raise LayoutError(f"{heads} heads cannot share {kv_heads} kv heads")
    v_width = _divide(part_rows["v"], kv_heads, "rows of V", "kv heads") if "v" in part_rows else width
    geometry = Geometry(heads, kv_heads, width, v_width if v_width != width else None)
    rows_of(layout, geometry, totals)
    return geometry


def _divide(rows: int, count: int, what: str, by: str) -> int:
    if rows % count or rows < count:
        raise LayoutError(f"{rows} {what} cannot be shared out over {count} {by}")
    return rows // count


def _possible_heads(part_rows: Mapping[str, int]) -> tuple[int, ...]:
    """Every number of heads with which Q, K and V come out even."""
    q, k, v = (part_rows.get(part, 0) for part in ("q", "k", "v"))
    if not q or q > MAX_HEADS:
        return ()
    return tuple(
        heads
        for heads in range(1, q + 1)
        if q % heads == 0
        and k % (q // heads) == 0
        and (k == 0 or (heads % (k // (q // heads)) == 0 and v % (k // (q // heads)) == 0))
    )
