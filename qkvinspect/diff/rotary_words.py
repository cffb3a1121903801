"""Permuted rows of Q and K in words: what was done to them, and which file is not as its architecture needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qkvinspect.diff.difference import Side
from qkvinspect.diff.parts import paired
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.evidence.rotary_needs import needed_order
from qkvinspect.inspection.evidence.rotary_order import Order, Orders, places_of, weigh_orders
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts.layout import Turn
from qkvinspect.layouts.packing import Geometry
from qkvinspect.weights.reading import Array

_DONE: Mapping[Order, str] = {
    "halves": "not permuted",
    "neighbours": "permuted",
    "twice": "permuted twice",
    "undone": "permuted the other way round",
}
_MADE: Mapping[Order, str] = {
    "neighbours": "permuted as llama.cpp's converter does",
    "twice": "permuted twice as llama.cpp's converter does",
    "undone": "with such a permutation as llama.cpp's converter does undone",
}


@dataclass(frozen=True, slots=True)
class Told:
    """How the rows of a part of one side were made of those of the other.

    Attributes:
        as_heads: as if the part had so many heads; 0 where the number was right, or was that of Q.
        side: whose rows they are.
        otherwise: how those of the other side were made, if this one lies as it must.
    """

    part: str
    order: Order
    exact: bool
    as_heads: int = 0
    side: Side = "b"
    otherwise: Told | None = None


class OrdersByWeights:
    """The orders of the rows of Q and K in one checkpoint: what they must be, and what its weights show."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._weighed: dict[object, Orders | None] = {}

    def needed(self, attention: Attention) -> Turn | None:
        """The order that the format and the architecture of a layer need; None where that is not known."""
        return needed_order(attention, self._report)

    def shown(self, layer: str) -> Orders | None:
        """What the weights of a layer, and of those that are like it, show; None where they do not decide.

        Raises:
            CheckpointError: the bytes cannot be read.
        """
        own = next((one for one in self._report.attentions if one.layer == layer), None)
        if own is None or own.heads is None:
            return None
        kind = _kind(own)
        if kind not in self._weighed:
            found = weigh_orders([one for one in self._report.attentions if _kind(one) == kind])
            self._weighed[kind] = found if found is not None and found.decided else None
        return self._weighed[kind]


_Both = tuple[Attention, Attention]
_Orders = tuple[OrdersByWeights, OrdersByWeights]


def _kind(attention: Attention) -> object:
    layout = attention.layout.id if attention.layout is not None else ""
    return layout, tuple(weight.shape for weight in attention.weights), str(attention.heads)


def of_one_kind(a: Attention, b: Attention) -> bool:
    """Whether both sides are of one format, so that neither is what the other was made of."""
    return _written(a) == _written(b) and paired(a) == paired(b)


def is_converted(a: Attention, b: Attention) -> bool:
    """Whether it is A that a converter wrote, and not B."""
    return bool(paired(a) or (_written(a) and not _written(b) and not paired(b)))


def _written(attention: Attention) -> bool:
    return attention.layout is not None and bool(attention.layout.rewritten_by)


def common_need(both: _Both, orders: _Orders) -> Turn | None:
    """The order that both sides must have; None where that is not known, or not the same."""
    need = orders[0].needed(both[0])
    return need if need == orders[1].needed(both[1]) else None


def in_words(names: Sequence[str], told: Told, geometry: Geometry, both: _Both, orders: _Orders) -> str:
    """What was done to the rows of some parts, and which side is wrong, if either can be known to be."""
    parts = [name for name in names if not name.endswith("_bias")]
    subject = f"the rows of {' and '.join(part.upper() for part in parts)} of"
    rest = "the values are the same" if told.exact else "the values are within rounding, as far as looked at"
    here = "ab".index(told.side)
    side, other = told.side.upper(), "BA"[here]
    layout = both[here].layout
    done = _done(parts[0], told, geometry)
    made = _as_heads(parts[0], told, geometry) or _MADE.get(told.order, "")
    if of_one_kind(*both):
        need = common_need(both, orders)
        if need is None:
            return f"{subject} {side} are those of {other} {made}; {rest}; what order they must have is not known"
        return f"{subject} {_either(parts, told, geometry, both, orders, need)}; {rest}"
    if layout is not None and not layout.needs_config and not layout.paired:
        return f"{subject} {side} are those of {other} {made}; {rest}; whether its architecture needs that is not known"
    text = f"{subject} {side} were {done}, where they should {_due(both[here])}; {rest}"
    shown, need = orders[1 - here].shown(both[1 - here].layer), orders[1 - here].needed(both[1 - here])
    if shown is None or need is None or all(_of(shown, part) == need for part in parts):
        return text
    return f"{text}; but by its weights {other} itself does not lie as its architecture needs it"


def _done(part: str, told: Told, geometry: Geometry) -> str:
    return _as_heads(part, told, geometry) or _DONE[told.order]


def _due(attention: Attention) -> str:
    return "be permuted once, as llama.cpp needs it" if paired(attention) else "not be"


def _as_heads(part: str, told: Told, geometry: Geometry) -> str:
    """Words for a wrong number of heads; "" where it was right."""
    own = geometry.heads(part)
    if told.as_heads:
        as_q = ", as Q has," if told.as_heads == geometry.num_heads and part != "q" else ","
        count = "was 1 head" if told.as_heads == 1 else f"were {told.as_heads} heads"
        return f"permuted as if there {count}{as_q} and not {own}"
    if told.order == "with the heads of Q":
        return f"permuted as if there were {geometry.num_heads} heads, as Q has, and not {geometry.num_kv_heads}"
    return ""


def _either(parts: Sequence[str], told: Told, geometry: Geometry, both: _Both, orders: _Orders, need: Turn) -> str:
    """Which of two files of one format does not lie as it must, and how it came about."""
    here, due = "ab".index(told.side), _due(both[0])
    side, other = told.side.upper(), "BA"[here]
    done, otherwise = _done(parts[0], told, geometry), told.otherwise
    reverse = _done(parts[0], otherwise, geometry) if otherwise is not None else "put in another order"
    weighed = [orders[at].shown(both[at].layer) for at in (1 - here, here)]
    right = {_are_right(part, told, geometry, weighed, need) for part in parts}
    if len(right) > 1 or None in right:
        text = f"{side} were {done}, or else those of {other} were {reverse}, where they should {due}"
        return f"{text}: which of the two it is the weights do not show"
    of_other, of_side = right.pop() or (False, False)
    if of_other:
        return (
            f"{side} were {done}, where they should {due}: the weights show that those of {other} are as they must be"
        )
    if of_side:
        text = f"{other} were {reverse}, where they should {due}"
        return f"{text}: the weights show that those of {side} are as they must be"
    return f"both lie otherwise than they must, by their weights; if those of {other} were right, {side}'s were {done}"


def _are_right(
    part: str, told: Told, geometry: Geometry, weighed: Sequence[Orders | None], need: Turn
) -> tuple[bool, bool] | None:
    """Whether a part of the other side, and of that of which it is told, lies as it must.

    The weights of one of them tell, and what was done.
    """
    width = geometry.width(part)
    share = geometry.num_heads // geometry.heads(part)
    due = places_of(need, width, share)
    other, side = (None if one is None else places_of(_of(one, part), width, share) for one in weighed)
    if told.as_heads:
        known = [None if one is None else _same(one, due) for one in (other, side)]
        return (known[0] or False, known[1] or False) if True in known else None
    index = due[np.argsort(places_of(told.order, width, share))]
    if other is None and side is None:
        return None
    if other is None:
        assert side is not None
        other = index[side]
    made = np.argsort(index)[other]
    if side is not None and not _same(made, side):
        return None
    return _same(other, due), _same(made, due)


def _same(one: Array, other: Array) -> bool:
    return bool(np.array_equal(one, other))


def _of(orders: Orders, part: str) -> Order:
    return orders.q if part == "q" else orders.k
