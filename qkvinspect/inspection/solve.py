"""Solve for the heads: the most trusted fact that fills the stored rows exactly is the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.fact_against_rows import HeldRows, SeveralExplanationsError, Sizes, fitted
from qkvinspect.inspection.facts.fact import HeadFact, SaidBy
from qkvinspect.inspection.one_for_all_heads import why_not_cut
from qkvinspect.inspection.sizes import geometry_of, part_rows_of, possible_heads, shared_unlike
from qkvinspect.layouts import Layout
from qkvinspect.layouts.packing import HEADED, Geometry


@dataclass(frozen=True, slots=True)
class Solution:
    """The sizes of a module and what the number of heads came from.

    Attributes:
        geometry: None where the parts cannot be told apart; one "head" a part where only the number of
            heads is unknown.
        fact: what the number of heads came from; None where it is unknown.
        possible: the numbers of heads that the shapes allow.
        rejected: facts that the shapes contradict, and why.
        disagreeing: facts that fit the shapes but say otherwise than the chosen one.
        explained: why the layer holds other heads than the chosen fact says of the model; "" where it does not.
        unlike: why no number of heads fits, where K and V have different ones, or all heads the same rows; "" where
            neither is so.
    """

    geometry: Geometry | None
    fact: HeadFact | None
    possible: tuple[int, ...] = ()
    rejected: tuple[tuple[HeadFact, str], ...] = ()
    disagreeing: tuple[tuple[HeadFact, Geometry], ...] = ()
    explained: str = ""
    unlike: str = ""

    @property
    def known(self) -> bool:
        """Whether the number of heads is known."""
        return self.fact is not None


def solve(candidate: Candidate, out_features: int | None, facts: Iterable[HeadFact]) -> Solution:
    """Find the sizes that fill the stored tensors and agree with the most trusted fact.

    Args:
        out_features: input width of the output projection, or None: it equals the rows of V's heads.
    """
    shapes, known = tuple(candidate.shapes), tuple(facts)
    first = candidate.weights[0]
    dtype = first.dtype.name if first.encoding is None and first.dtype.kind in ("int", "uint") else ""
    return _solve(candidate.layout, shapes, out_features, known, dtype)


@lru_cache(256)
def _solve(
    layout: Layout,
    shapes: tuple[tuple[int, int], ...],
    out_features: int | None,
    facts: tuple[HeadFact, ...],
    dtype: str,
) -> Solution:
    """``solve``, cached, as the layers of a stack are alike."""
    totals = [rows for rows, _ in shapes]
    part_rows = part_rows_of(layout, shapes, out_features)
    tensor_dim = next((fact.head_dim for fact in facts if fact.said_by is SaidBy.TENSOR and fact.head_dim), None)
    in_features = next(
        (cols for stored, (_, cols) in zip(layout.weights, shapes, strict=True) if "q" in stored.packing.order), None
    )
    stored_rows = HeldRows(layout, tuple(totals), in_features, dtype)
    chosen: tuple[HeadFact, Geometry, str] | None = None
    rejected: list[tuple[HeadFact, str]] = []
    disagreeing: list[tuple[HeadFact, Geometry]] = []

    def sizes(fact: HeadFact) -> Geometry:
        return geometry_of(layout, totals, part_rows, out_features, fact)

    if layout.heads_on_all_rows:
        why = why_not_cut(layout)
        others = [fact for fact in facts if fact.num_heads != layout.heads_on_all_rows]
        flags = [(fact, why) for fact in others if fact.said_by is SaidBy.FLAG]
        return Solution(_whole(layout, part_rows), None, (), tuple(flags), unlike=why)
    fixed = _fixed(facts, sizes)
    settled = True
    for fact in facts:
        if fact.elsewhere:
            continue
        if fact.refuted:
            rejected.append((fact, fact.refuted))
            continue
        sized = replace(fact, head_dim=fact.head_dim or tensor_dim or _width_of_all(fact, facts))
        fixes = f"{fixed[0].origin} fixes {fixed[1]}" if fixed and fact.head_dim is None else ""
        try:
            geometry, why = fitted(sized, stored_rows, sizes)
            _require_agreement(fact, geometry, fixed)
        except LayoutError as error:
            rejected.append((fact, fixes if fixes and fact.said_by is SaidBy.CONFIG else str(error)))
            settled = settled and not isinstance(error, SeveralExplanationsError)
            continue
        if chosen is None:
            chosen = fact, geometry, why
        elif geometry.num_heads != chosen[1].num_heads and (
            chosen[0].said_by is not SaidBy.FLAG or fact.said_by is SaidBy.TENSOR
        ):
            disagreeing.append((fact, geometry))
    if chosen is not None:
        fact, geometry, why = chosen
        same_source = [g for f, g in disagreeing if _source(f) == _source(fact)]
        if not same_source:
            return Solution(geometry, fact, (), tuple(rejected), tuple(disagreeing), why)
        disagreeing.insert(0, (fact, geometry))
    elif any(fact.num_heads for fact, _ in rejected):
        others = {} if layout.rewritten_by else _of_other_parts(facts, sizes)
        if len(others) == 1 and settled:
            ((geometry, fact),) = others.items()
            return Solution(geometry, fact, (), tuple(rejected), (), _ANOTHER_PART)
        rejected += [
            (fact, "it is of another part of the model, though its heads would fit") for fact in others.values()
        ]
    unlike = shared_unlike(layout, part_rows, out_features)
    possible = possible_heads(part_rows) if not unlike else ()
    whole = _whole(layout, part_rows)
    return Solution(whole, None, possible, tuple(rejected), tuple(disagreeing), unlike=unlike)


def _whole(layout: Layout, part_rows: Mapping[str, int]) -> Geometry | None:
    """One "head" a part, where the shapes tell the parts apart."""
    if {part for stored in layout.weights for part in stored.packing.parts if part in HEADED} != {*part_rows}:
        return None
    return Geometry(1, 1, part_rows.get("q", 1), widths=part_rows)


_ANOTHER_PART = "as the config of another part of the model says, which its rows fit"


def _of_other_parts(facts: Iterable[HeadFact], sizes: Sizes) -> dict[Geometry, HeadFact]:
    """What the configs of other parts of the model would make of the rows, where these are filled exactly."""
    found: dict[Geometry, HeadFact] = {}
    for fact in facts:
        if fact.elsewhere:
            try:
                geometry = sizes(fact)
            except LayoutError:
                continue
            if geometry.width("q") == fact.head_dim:
                found.setdefault(geometry, fact)
    return found


def _width_of_all(fact: HeadFact, facts: Iterable[HeadFact]) -> int | None:
    """How wide a config says that heads are of which it and a tensor give the same number.

    The tensor may be that of the whole model where the projections are a share of it: T5's table of positions is left
    as it is where heads are pruned.
    """
    if fact.said_by is not SaidBy.TENSOR or fact.num_heads is None:
        return None
    alike = (one for one in facts if one.num_heads == fact.num_heads and not one.elsewhere and not one.refuted)
    return next((one.head_dim for one in alike if one.said_by is SaidBy.CONFIG and one.head_dim), None)


def _fixed(facts: Sequence[HeadFact], sizes: Sizes) -> tuple[HeadFact, int] | None:
    """The number of heads that a tensor of the module itself fixes, where all that do agree."""
    found: dict[int, HeadFact] = {}
    for fact in facts:
        if fact.said_by is SaidBy.TENSOR:
            width = _width_of_all(fact, facts)
            try:
                geometry = sizes(fact)
            except LayoutError:
                continue
            if width in (None, geometry.width("q")):
                found.setdefault(geometry.num_heads, fact)
    if len(found) != 1:
        return None
    ((heads, fact),) = found.items()
    return fact, heads


def _require_agreement(fact: HeadFact, geometry: Geometry, fixed: tuple[HeadFact, int] | None) -> None:
    """A config may speak of another part of the model; a tensor of the module does not.

    Raises:
        LayoutError: they differ.
    """
    if fixed is not None and fact.said_by is SaidBy.CONFIG and geometry.num_heads != fixed[1]:
        raise LayoutError(f"{fixed[0].origin} fixes {fixed[1]}")


def _source(fact: HeadFact) -> str:
    """The file or object a fact came from, without the key."""
    return fact.config or fact.origin
