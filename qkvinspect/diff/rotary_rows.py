"""Rows of Q and K that a converter permuted wrongly; recognised even if they were rounded afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, isfinite

import numpy as np

from qkvinspect.diff.difference import PartDifference, Side
from qkvinspect.diff.ordered_rows import Lines
from qkvinspect.diff.parts import Parts, paired
from qkvinspect.diff.relation import Relation, RelationCode
from qkvinspect.diff.rotary_words import OrdersByWeights, Told, common_need, in_words, is_converted, of_one_kind
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.evidence.rotary_order import Order, divides_as_q, places_of
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import Geometry
from qkvinspect.weights.reading import Array

_MOST_HEADS = 3
_MOST_COLUMNS = 512
_FEW_COLUMNS = 64
_MOST_VALUES = 1 << 22
_NEAR = 0.4
"""The relative error up to which rows count as the same but for rounding: 2 bits a value give 0.3, other rows 1.4."""

ORDERS: tuple[Order, ...] = ("halves", "neighbours", "twice", "undone")
"""What may have been done to the rows of a head, but for the number of heads."""


def rotary_relations(
    a: Attention,
    b: Attention,
    sides: tuple[Parts, Parts],
    found: Sequence[PartDifference],
    geometry: Geometry | None,
    orders: tuple[OrdersByWeights, OrdersByWeights],
) -> Iterator[Relation]:
    """What explains changed rows of Q and K, where both sides have as many and the heads are known.

    Args:
        geometry: the heads with which the rows of either side were put in order.
        orders: what the weights of each side say of the order of their rows.
    """
    if geometry is None:
        return
    alike = of_one_kind(a, b)
    if alike:
        needed: Order = common_need((a, b), orders) or "halves"
    else:
        needed = "neighbours" if paired(a) != paired(b) else "halves"
    side: Side = "b" if alike or not is_converted(a, b) else "a"
    told: list[Told] = []
    for part in found:
        ours, theirs = (one.get(part.name) for one in (sides if side == "b" else sides[::-1]))
        if part.name.removesuffix("_bias") in ("q", "k") and part.whole.status == "changed" and ours and theirs:
            told += _told(part.name, side, (ours, theirs), geometry, needed, alike=alike)
    kinds: dict[object, list[Told]] = {}
    for one in told:
        kinds.setdefault((one.side, one.order, one.as_heads), []).append(one)
    for some in kinds.values():
        names = tuple(one.part for one in some)
        if not all(name.endswith("_bias") for name in names):  # a bias alone is too short to say what happened
            kind = replace(some[0], exact=all(one.exact for one in some))
            text = in_words(names, kind, geometry, (a, b), orders)
            yield Relation(RelationCode.ROTARY_PERMUTED, text, names)


def _told(
    part: str, side: Side, lines: tuple[Lines, Lines], geometry: Geometry, needed: Order, *, alike: bool
) -> Iterator[Told]:
    """How one side was made; of two of one kind, how either was made if the other is as it must be."""
    plain, stored = lines
    found = _order(part, plain, stored, geometry, needed, alike=alike)
    other = _order(part, stored, plain, geometry, needed, alike=True) if alike else None
    if found is not None:
        yield replace(found, side=side, otherwise=other)
    elif other is not None:
        yield replace(other, side="a" if side == "b" else "b")


def _order(part: str, plain: Lines, stored: Lines, geometry: Geometry, needed: Order, *, alike: bool) -> Told | None:
    """How a part was permuted, if not as its format needs; None where no permutation explains its rows.

    Args:
        alike: whether the other side is of the same format, so that nothing was put back.
    """
    kind = part.removesuffix("_bias")
    heads, width = geometry.heads(kind), geometry.width(kind)
    share = geometry.num_heads // heads if heads else 0
    if not heads or width < 4 or width % 2 or plain.shape != stored.shape or plain.rows != heads * width:
        return None
    if not (plain.comparable and stored.comparable) or plain.is_real != stored.is_real:
        return None
    tried: list[Order] = [*ORDERS, *_as_q(kind, share, width)]
    orders: dict[Order, Array] = {order: _index(order, needed, width, share, alike=alike) for order in tried}
    chosen = dict.fromkeys(i * heads // min(heads, _MOST_HEADS) for i in range(min(heads, _MOST_HEADS)))
    pairs = [(_head(plain, head, width), _head(stored, head, width)) for head in chosen]
    if not all(np.isfinite(one).all() for pair in pairs for one in pair):
        return None
    errors: dict[Order, float] = {order: _error(pairs, index) for order, index in orders.items()}
    best = min(errors, key=errors.__getitem__)
    if errors[needed] <= _NEAR and best == needed:
        return None
    if errors[best] <= _NEAR and errors[needed] >= 2 * errors[best]:
        return Told(part, best, errors[best] == 0)
    return _as_other_heads(part, plain, stored, heads, needed, alike=alike)


def _as_other_heads(part: str, plain: Lines, stored: Lines, heads: int, needed: Order, *, alike: bool) -> Told | None:
    """The number of heads with which all rows of a part were permuted at once, where it was not its own."""
    rows, cols = plain.rows, range(min(plain.cols, _FEW_COLUMNS))
    if rows * len(cols) > _MOST_VALUES:
        return None
    whole = (_values(plain, range(rows), cols), _values(stored, range(rows), cols))
    if not all(np.isfinite(one).all() for one in whole):
        return None
    due = _all_places(needed, rows, heads)
    errors: dict[int, float] = {
        number: _error([whole], _between(_all_places("neighbours", rows, number), due, alike=alike))
        for number in range(1, rows // 4 + 1)
        if number != heads and rows % number == 0 and rows // number % 2 == 0
    }
    best, *others = sorted(errors, key=errors.__getitem__) or (0,)
    if not best or errors[best] > _NEAR or any(errors[number] < 2 * errors[best] for number in others if errors[best]):
        return None
    if any(errors[number] == 0 for number in others):
        return None
    return Told(part, "neighbours", errors[best] == 0, best)


def _all_places(order: Order, rows: int, heads: int) -> Array:
    """Where each row of a part lies that was permuted with so many heads."""
    width = rows // heads
    return (np.arange(heads)[:, None] * width + places_of(order, width, 1)).ravel()


def _as_q(part: str, share: int, width: int) -> tuple[Order, ...]:
    return ("with the heads of Q",) if part == "k" and divides_as_q(width, share) else ()


def _index(order: Order, needed: Order, width: int, share: int, *, alike: bool) -> Array:
    return _between(places_of(order, width, share), places_of(needed, width, share), alike=alike)


def _between(places: Array, due: Array, *, alike: bool) -> Array:
    """Which row of the other side each row is, where that side is as it must be.

    Args:
        places: where each row lies, counted as in halves, before it was put back as its format needs.
        due: where it should lie.
        alike: whether neither side was put back, and the other has its rows where they should lie.
    """
    return due[np.argsort(places)] if alike else np.argsort(places)[due]


def _head(lines: Lines, head: int, width: int) -> Array:
    return _values(lines, range(head * width, (head + 1) * width), range(min(lines.cols, _MOST_COLUMNS)))


def _values(lines: Lines, rows: range, cols: range) -> Array:
    words = lines.words(rows, cols)
    with np.errstate(invalid="ignore"):  # signalling NaN
        return np.asarray(lines.values(words), np.float64)


def _error(pairs: Sequence[tuple[Array, Array]], index: Array) -> float:
    """Relative L2 difference of the heads, with the rows of the first in another order; infinite beyond float64."""
    with np.errstate(over="ignore"):  # scales in a file may be as large as they like
        size = sum(float((after * after).sum()) for _, after in pairs)
        gap = sum(float(((before[index] - after) ** 2).sum()) for before, after in pairs)
    return (gap / (size or 1)) ** 0.5 if isfinite(size + gap) else inf
