"""Test whether a fact about heads fits the rows of a layer, and explain it if it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.inspection.facts.fact import HeadFact, SaidBy
from qkvinspect.layouts import Layout
from qkvinspect.layouts.packing import HEADED, QUERY_SIDE, Geometry

Sizes = Callable[[HeadFact], Geometry]
"""The sizes that a fact leads to; LayoutError where the rows contradict it."""


@dataclass(frozen=True, slots=True)
class HeldRows:
    """What a module's tensors hold, as far as it may explain why a fact does not fit.

    Attributes:
        in_features: what Q is projected from.
        dtype: what its numbers are stored as, where these are whole numbers that nothing decodes; else "".
    """

    layout: Layout
    totals: tuple[int, ...]
    in_features: int | None
    dtype: str = ""


class SeveralExplanationsError(LayoutError):
    """The rows contradict a fact, and more than one thing would explain that, or one that leaves them open."""


def fitted(fact: HeadFact, stored: HeldRows, sizes: Sizes) -> tuple[Geometry, str]:
    """The sizes of a layer by one fact, and "" or the reason why it holds other heads than the fact says.

    A config speaks of the whole model. Where a layer has fewer rows than heads of that width need, it is the share of
    a rank, or heads were pruned; heads are never made narrower to fit.

    Raises:
        SeveralExplanationsError: the rows contradict the fact, and what explains that does not settle it.
        LayoutError: they contradict it and nothing explains it.
    """
    width, given = _width(fact, stored.in_features)
    if fact.num_heads is None or width is None:
        geometry = sizes(fact)
        return geometry, _other_kv_heads(fact, stored.layout, geometry)
    try:
        geometry = sizes(fact)
        if geometry.width("q") == width or (geometry.width("q") > width and not given):
            return geometry, _other_kv_heads(fact, stored.layout, geometry)
        contradiction = f"its heads have {width} rows, and {fact.num_heads} of them do not fit"
    except LayoutError as error:
        contradiction = str(error)
    if stored.layout.rewritten_by:
        raise LayoutError(contradiction)
    known = fact.ranks is not None or bool(fact.pruned) or fact.shared_out
    explanations = list(_explanations(fact, width, sizes, stored.layout.kv_heads == "free"))
    without = list(_without_sizes(fact, width, stored))
    if len(explanations) == 1 and not without and (given or known):
        return explanations[0]
    said = [f"{geometry.num_heads} heads of {width} rows, {why}" for geometry, why in explanations] + without
    if said:
        raise SeveralExplanationsError(f"{contradiction}: it may hold {'; or '.join(said)}")
    raise LayoutError(contradiction)


def _other_kv_heads(fact: HeadFact, layout: Layout, geometry: Geometry) -> str:
    """What is said where the rows hold another number of kv heads than the same source says.

    A converter may write another number, and K and V may be written once for each head.

    Raises:
        LayoutError: neither explains it, so that the number of heads may be as wrong.
    """
    kv_heads, held = fact.num_kv_heads, geometry.num_kv_heads
    if layout.kv_heads != "free" or kv_heads in (None, held):
        return ""
    if layout.rewritten_by or held == geometry.num_heads:
        return f"over {held} kv heads by its rows, where the same source says {kv_heads}"
    raise LayoutError(f"the same source says {kv_heads} kv heads, and by its rows there would be {held}")


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


def _explanations(fact: HeadFact, width: int, sizes: Sizes, kv_free: bool) -> Iterator[tuple[Geometry, str]]:
    """Every way in which the layer may hold some of the model's heads, whole ones only.

    Args:
        kv_free: whether heads may share those of K and V. A rank that holds its part of Q's heads and more of K's than
            these use is none that anything here knows.
    """
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
            found = _try(share, width, sizes)
            if found and (not shared or not kv_free or found.num_kv_heads == shared):
                share_of = f"the share of one of {ranks} ranks"
                why = share_of if fact.ranks else f"{share_of}, or what pruning left,"
                yield found, f"{why} of a model of {heads} heads"
    if fact.ranks is None and kv_heads in (None, heads):
        yield from _pruned(fact, width, sizes)


def _pruned(fact: HeadFact, width: int, sizes: Sizes) -> Iterator[tuple[Geometry, str]]:
    """So few heads of a model whose heads share none as no rank has."""
    heads = fact.num_heads or 1
    for left in range(1, heads):
        found = _try(replace(fact, num_heads=left, num_kv_heads=None, head_dim=width), width, sizes)
        if heads % left and found and found.num_kv_heads == left:
            yield found, f"what pruning left of a model of {heads} heads"


def _without_sizes(fact: HeadFact, width: int, stored: HeldRows) -> Iterator[str]:
    """What would explain the rows as well, and leaves it open which of them are whose."""
    heads, kv_heads, total = fact.num_heads or 1, fact.num_kv_heads or fact.num_heads or 1, sum(stored.totals)
    parts = [part for one in stored.layout.weights for part in one.packing.order if part in HEADED]
    of_heads = sum(part in QUERY_SIDE for part in parts)
    whole = (of_heads * heads + (len(parts) - of_heads) * kv_heads) * width
    if not total:  # projections without rows are the share of nobody
        return
    ranks, left = divmod(whole, total)
    grouped = stored.layout.weights[0].packing.groups == "kv_heads" and kv_heads % max(ranks, 1) > 0
    if grouped and not left and ranks > 1 and heads % ranks == 0 and fact.ranks in (None, ranks):
        few = "1 kv head" if kv_heads == 1 else f"{kv_heads} kv heads"
        yield (
            f"{total} of the model's {whole} rows, the share of one of {ranks} ranks, some of which hold rows of Q only"
            f" where there is no more than {few} (the folder of all ranks tells)"
        )
    if stored.dtype and not left and ranks in _PACKED:
        yield f"all {heads} heads, {ranks} numbers in each {stored.dtype} (packed bytes that no scales explain)"


_PACKED = (2, 4, 8)
"""How many numbers of 4, 2 and 1 bits a byte holds, and of 16, 8 and 4 a 32-bit word."""


def _try(fact: HeadFact, width: int, sizes: Sizes) -> Geometry | None:
    try:
        geometry = sizes(fact)
    except LayoutError:
        return None
    return geometry if geometry.width("q") == width else None
