"""Attention as the graph of a file computes it: which rows of which weights it takes for Q, K and V of each head."""

from __future__ import annotations

from collections.abc import Mapping

from qkvinspect.fast_tuple import NamedTuple


class ComputedPart(NamedTuple):
    """The rows of a weight that the file itself makes Q, K or V of, by head."""

    weight: str
    heads: tuple[range, ...]


class ComputedCut(NamedTuple):
    """What the file itself cuts a weight into, where it is not known what becomes of that."""

    weight: str
    pieces: tuple[tuple[range, ...], ...]


class ComputedUnknown(NamedTuple):
    """A weight that the file itself does not take to any attention that is known.

    Attributes:
        reordered_by: the operator that takes its rows in an order that cannot be followed; "" where there is none.
        until: the last node to which its rows can be followed, ``MatMul number 2 in blocks.0.attn``; "" without any.
    """

    weight: str
    reordered_by: str = ""
    until: str = ""


class ComputedShared(NamedTuple):
    """A weight that the file itself uses in more places than it has names for it, as equal ones are stored once.

    Attributes:
        more: how many places there are without a name.
    """

    weight: str
    more: int


class ComputedSum(NamedTuple):
    """What the file itself adds to the product of a weight: another one of low rank, ``up @ down * scale``."""

    weight: str
    up: str
    down: str
    scale: float


class ComputedScale(NamedTuple):
    """The scale of a norm that an exporter computed of the weight that the model has, as 1 + w of Gemma's."""

    weight: str


class ComputedAttention(NamedTuple):
    """An attention module as the graph of a file computes it.

    Attributes:
        shared_otherwise: whether heads share those of K and V in another order than one after the other.
        turn: rows from one to that with which a rotary embedding turns it; 0 where there is none, or it is not known.
        in_out: the weights whose rows lie along the second axis of their tensor.
    """

    q: ComputedPart
    k: ComputedPart
    v: ComputedPart
    shared_otherwise: bool = False
    turn: int = 0
    in_out: frozenset[str] = frozenset()

    @property
    def parts(self) -> Mapping[str, ComputedPart]:
        return {"q": self.q, "k": self.k, "v": self.v}


Computed = ComputedAttention | ComputedCut | ComputedUnknown | ComputedShared | ComputedScale | ComputedSum
