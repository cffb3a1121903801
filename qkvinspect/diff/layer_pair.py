"""Two modules that are compared, and which of their parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qkvinspect.diff.pairing import Pair
from qkvinspect.diff.parts import Parts
from qkvinspect.diff.relation import Relation
from qkvinspect.inspection.report import Attention


@dataclass(frozen=True, slots=True)
class LayerPair:
    """Two modules, and the parts of them that are compared.

    Attributes:
        without_heads: the side that gives no number of heads, and was cut into those of the other; "" for none.
    """

    pair: Pair
    a: Attention
    b: Attention
    parts: tuple[Parts, Parts]
    names: tuple[str, ...]
    undone: tuple[Relation, ...] = ()
    without_heads: Literal["", "A", "B"] = ""

    @property
    def nbytes(self) -> int:
        return sum(side[name].nbytes for side in self.parts for name in self.names if name in side)
