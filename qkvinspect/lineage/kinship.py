"""What two checkpoints are to each other, with the p-value that it stands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from qkvinspect.inspection.json_values import number, number_or_none
from qkvinspect.lineage.fates import Fate, HeadFate, LayerFate
from qkvinspect.lineage.order_test import OrderTest

Verdict = Literal["identical", "derived", "common ancestor", "kin", "unrelated", "undetermined"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def label(place: int) -> str:
    """A, B, C ... for the checkpoints in the order in which they were named."""
    return chr(ord("A") + place) if place < 26 else f"#{place + 1}"


Tested = Literal["residual", "inner"]
"""Which units' order was tested: those of the residual stream, or the rows of V in each head."""

KIN = 1e-6
"""Below this p-value two checkpoints are said to be kin."""

STRANGERS = 1e-3
"""From this on they are said to be unrelated; between both nothing is said."""


@dataclass(frozen=True, slots=True)
class Kinship:
    """Two checkpoints.

    Attributes:
        a, b: their places in the order in which they were named.
        why: the verdict in a sentence.
        descendant: which of them was made from the other, where that can be told.
        test: None where nothing could be compared.
        tested: the units of the test.
        layers: empty unless they are kin.
    """

    a: int
    b: int
    verdict: Verdict
    why: str
    descendant: Literal["a", "b"] | None = None
    test: OrderTest | None = None
    tested: Tested = "residual"
    layers: tuple[LayerFate, ...] = ()

    @property
    def kin(self) -> bool:
        return self.verdict in ("identical", "derived", "common ancestor", "kin")

    @property
    def heads(self) -> Sequence[HeadFate]:
        """Of all layers."""
        return [head for layer in self.layers for head in layer.heads]

    def count(self, fate: Fate) -> tuple[int, int]:
        """How many layers and how many heads met this fate."""
        return sum(one.fate == fate for one in self.layers), sum(one.fate == fate for one in self.heads)

    @property
    def distance(self) -> float | None:
        """The mean of its layers' squared distances; None unless they are kin."""
        known = [layer.distance for layer in self.layers if layer.distance is not None]
        return sum(known) / len(known) if known else None

    def answers(self, expected: Verdict) -> bool:
        """Whether it is what was expected: whoever is identical to A, or derived from it, is its kin, too."""
        if expected == "derived":
            return self.verdict == "identical" or (self.verdict == "derived" and self.descendant != "a")
        return self.kin if expected == "kin" else self.verdict == expected

    def to_dict(self) -> dict[str, object]:
        """Its form in the JSON contract."""
        test = self.test
        return {
            "a": self.a,
            "b": self.b,
            "verdict": self.verdict,
            "why": self.why,
            "descendant": self.descendant,
            "p_value": number(test.p_value) if test else None,
            "tested": None if test is None else {"units": self.tested, "number": test.units, "in_place": test.in_place},
            "distance": number_or_none(self.distance),
            "layers": [layer.to_dict() for layer in self.layers],
        }
