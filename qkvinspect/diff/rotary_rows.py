"""Rows of Q and K that a converter permuted wrongly; recognised even if they were rounded afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, isfinite

import numpy as np

from qkvinspect.diff.difference import PartDifference
from qkvinspect.diff.ordered_rows import Lines
from qkvinspect.diff.parts import Parts, paired
from qkvinspect.diff.relation import Relation, RelationCode
from qkvinspect.fast_dataclass import dataclass, replace
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

_WRONG: dict[Order, str] = {
    "halves": "not permuted",
    "neighbours": "permuted",
    "twice": "permuted twice",
    "undone": "permuted the other way round",
}


@dataclass(frozen=True, slots=True)
class _Told:
    """How a converter permuted the rows of a part.

    Attributes:
        as_heads: as if the part had so many heads; 0 where the number was right, or was that of Q.
    """

    part: str
    order: Order
    exact: bool
    as_heads: int = 0


def rotary_relations(
    a: Attention, b: Attention, sides: tuple[Parts, Parts], found: Sequence[PartDifference], geometry: Geometry | None
) -> Iterator[Relation]:
    """What explains changed rows of Q and K, where both sides have as many and the heads are known."""
    if geometry is None:
        return
    needed: Order = "neighbours" if paired(a) != paired(b) else "halves"
    side = "A" if paired(a) and not paired(b) else "B"
    told: list[_Told] = []
    for part in found:
        ours, theirs = (one.get(part.name) for one in (sides if side == "B" else sides[::-1]))
        if part.name.removesuffix("_bias") in ("q", "k") and part.whole.status == "changed" and ours and theirs:
            order = _order(part.name, ours, theirs, geometry, needed)
            told += [order] if order else []
    kinds: dict[tuple[Order, int], list[_Told]] = {}
    for one in told:
        kinds.setdefault((one.order, one.as_heads), []).append(one)
    for alike in kinds.values():
        names = tuple(one.part for one in alike)
        if not all(name.endswith("_bias") for name in names):  # a bias alone is too short to say what happened
            kind = replace(alike[0], exact=all(one.exact for one in alike))
            yield Relation(RelationCode.ROTARY_PERMUTED, _text(names, side, kind, needed, geometry), names)


def _order(part: str, plain: Lines, stored: Lines, geometry: Geometry, needed: Order) -> _Told | None:
    """How a part was permuted, if not as its format needs; None where no permutation explains its rows."""
    kind = part.removesuffix("_bias")
    heads, width = geometry.heads(kind), geometry.width(kind)
    share = geometry.num_heads // heads if heads else 0
    if not heads or width < 4 or width % 2 or plain.shape != stored.shape or plain.rows != heads * width:
        return None
    if not (plain.comparable and stored.comparable):
        return None
    tried: list[Order] = [*_WRONG, *_as_q(kind, share, width)]
    orders: dict[Order, Array] = {order: _index(order, needed, width, share) for order in tried}
    chosen = dict.fromkeys(i * heads // min(heads, _MOST_HEADS) for i in range(min(heads, _MOST_HEADS)))
    pairs = [(_head(plain, head, width), _head(stored, head, width)) for head in chosen]
    if not all(np.isfinite(one).all() for pair in pairs for one in pair):
        return None
    errors: dict[Order, float] = {order: _error(pairs, index) for order, index in orders.items()}
    best = min(errors, key=errors.__getitem__)
    if errors[needed] <= _NEAR and best == needed:
        return None
    if errors[best] <= _NEAR and errors[needed] >= 2 * errors[best]:
        return _Told(part, best, errors[best] == 0)
    return _as_other_heads(part, plain, stored, heads, needed)


def _as_other_heads(part: str, plain: Lines, stored: Lines, heads: int, needed: Order) -> _Told | None:
    """The number of heads with which all rows of a part were permuted at once, where it was not its own."""
    rows, cols = plain.rows, range(min(plain.cols, _FEW_COLUMNS))
    if rows * len(cols) > _MOST_VALUES:
        return None
    whole = (_values(plain, range(rows), cols), _values(stored, range(rows), cols))
    if not all(np.isfinite(one).all() for one in whole):
        return None
    due = _all_places(needed, rows, heads)
    errors: dict[int, float] = {
        number: _error([whole], np.argsort(_all_places("neighbours", rows, number))[due])
        for number in range(1, rows // 4 + 1)
        if number != heads and rows % number == 0 and rows // number % 2 == 0
    }
    best, *others = sorted(errors, key=errors.__getitem__) or (0,)
    if not best or errors[best] > _NEAR or any(errors[number] < 2 * errors[best] for number in others if errors[best]):
        return None
    if any(errors[number] == 0 for number in others):
        return None
    return _Told(part, "neighbours", errors[best] == 0, best)


def _all_places(order: Order, rows: int, heads: int) -> Array:
    """Where each row of a part lies that was permuted with so many heads."""
    width = rows // heads
    return (np.arange(heads)[:, None] * width + places_of(order, width, 1)).ravel()


def _as_q(part: str, share: int, width: int) -> tuple[Order, ...]:
    return ("with the heads of Q",) if part == "k" and divides_as_q(width, share) else ()


def _index(order: Order, needed: Order, width: int, share: int) -> Array:
    """Which row of a head each of the other side is, once that has been put back as its format needs."""
    return np.argsort(places_of(order, width, share))[places_of(needed, width, share)]


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


def _text(names: Sequence[str], side: str, told: _Told, needed: Order, geometry: Geometry) -> str:
    parts = [name.upper() for name in names if not name.endswith("_bias")]
    subject = f"the rows of {' and '.join(parts)} of {side} were"
    order, exact = told.order, told.exact
    if told.as_heads:
        own = geometry.heads(names[0])
        as_q = ", as Q has," if told.as_heads == geometry.num_heads and names[0] != "q" else ""
        count = "was 1 head" if told.as_heads == 1 else f"were {told.as_heads} heads"
        what = f"permuted as if there {count}{as_q or ','} and not {own}"
    elif order == "with the heads of Q":
        what = f"permuted as if there were {geometry.num_heads} heads, as Q has, and not {geometry.num_kv_heads}"
    else:
        what = _WRONG[order]
    due = "once, as llama.cpp needs it" if needed == "neighbours" else "not permuted"
    rest = "the values are the same" if exact else "the values are within rounding, as far as looked at"
    return f"{subject} {what}, where they should be {'permuted ' if needed == 'neighbours' else ''}{due}; {rest}"
