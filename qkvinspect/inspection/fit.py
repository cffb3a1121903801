"""Whether a fact about heads fits the rows of a layer, and if it does not, what would explain it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from qkvinspect.errors import LayoutError
from qkvinspect.inspection.facts.fact import HeadFact, SaidBy
from qkvinspect.layouts.packing import Geometry

Sizes = Callable[[HeadFact], Geometry]
"""The sizes that a fact leads to; LayoutError where the rows contradict it."""


def fitted(fact: HeadFact, in_features: int | None, sizes: Sizes) -> tuple[Geometry, str]:
    """The sizes of a layer by one fact, and "" or the reason why it holds fewer heads than the fact says.

    A config speaks of the whole model. Where a layer has fewer rows than heads of that width need, it is the share of
    a rank, or heads were pruned; heads are never made narrower to fit.

    Args:
        in_features: what Q is projected from.

    Raises:
        LayoutError: the rows contradict the fact and nothing explains it.
    """
    width, given = _width(fact, in_features)
    if fact.num_heads is None or width is None:
        return sizes(fact), ""
    try:
        geometry = sizes(fact)
        if geometry.width("q") >= width:
            return geometry, ""
        contradiction = f"its heads have {width} rows, and {fact.num_heads} of them do not fit"
    except LayoutError as error:
        contradiction = str(error)
    known = fact.ranks is not None or bool(fact.pruned)
    explanations = list(_explanations(fact, width, sizes))
    if len(explanations) == 1 and (given or known):
        return explanations[0]
    if explanations:
        said = "; or ".join(f"{geometry.num_heads} heads of {width} rows, {why}" for geometry, why in explanations)
        raise LayoutError(f"{contradiction}: it may hold {said}")
    raise LayoutError(contradiction)


def _width(fact: HeadFact, in_features: int | None) -> tuple[int | None, bool]:
    """(rows that a head of the whole model has, whether the source gives them or they follow from its embed_dim)."""
    if fact.said_by is SaidBy.FLAG or fact.num_heads is None:
        return None, False
    if fact.head_dim is not None:
        return fact.head_dim, True
    wide = fact.embed_dim
    if wide is not None and not fact.by_class and wide == in_features and wide % fact.num_heads == 0:
        return wide // fact.num_heads, False
    return None, False


def _explanations(fact: HeadFact, width: int, sizes: Sizes) -> Iterator[tuple[Geometry, str]]:
    """Every way in which the layer may hold some of the model's heads, whole ones only."""
    heads, kv_heads = fact.num_heads or 1, fact.num_kv_heads
    if fact.pruned:
        left = replace(fact, num_heads=heads - fact.pruned, num_kv_heads=None, head_dim=width)
        if fact.pruned < heads and (found := _try(left, width, sizes)):
            yield found, f"{fact.pruned} of {heads} heads were pruned"
        return
    for ranks in (fact.ranks,) if fact.ranks else range(2, heads + 1):
        if heads % ranks == 0:
            shared = max(1, kv_heads // ranks) if kv_heads else None
            share = replace(fact, num_heads=heads // ranks, num_kv_heads=shared, head_dim=width)
            if found := _try(share, width, sizes):
                share_of = f"the share of one of {ranks} ranks"
                why = share_of if fact.ranks else f"{share_of}, or what pruning left,"
                yield found, f"{why} of a model of {heads} heads"


def _try(fact: HeadFact, width: int, sizes: Sizes) -> Geometry | None:
    try:
        geometry = sizes(fact)
    except LayoutError:
        return None
    return geometry if geometry.width("q") == width else None
