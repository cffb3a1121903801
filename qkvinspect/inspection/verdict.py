"""The answers that the weights give to a question, as plain dataclasses."""

from __future__ import annotations

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.layouts.layout import Turn


@dataclass(frozen=True, slots=True)
class Weighed:
    """A hypothesis and how well it explains the weights.

    Attributes:
        label: the packing; "" where only heads are in question.
        score: twice the log-likelihood gained over no heads at all (or over the worst packing weighed), less
            what its parameters gain by chance; summed over the layers.
        explained_by: a larger number of heads that explains it: put together in any other order, those heads
            reach about the same score.
        same_rows: another packing that comes to the same rows with so many heads: one head a group, or as many
            groups as heads; "" where there is none.
        turn: which rows of a head turn together, where that is weighed.
        tiled: whether heads that share a kv head lie as many apart as there are kv heads: head h uses h % kv heads.
    """

    label: str
    num_heads: int
    score: float
    explained_by: int | None = None
    same_rows: str = ""
    turn: Turn | None = None
    tiled: bool = False

    @property
    def answer(self) -> str | int:
        """The packing, where packings are weighed; else the number of heads."""
        return self.label or (f"{self.num_heads} tiled" if self.tiled else self.num_heads)

    def agrees(self, other: Weighed) -> bool:
        """Whether both give the same answer, or the same rows."""
        return self.answer in (other.answer, other.same_rows) or self.same_rows == other.answer

    def words(self, num_heads: int | None) -> str:
        """The packing in words that hold for so many heads, if their number is known."""
        if not self.same_rows or num_heads == self.num_heads:
            return self.label
        return self.same_rows if num_heads is not None else f"{self.label}, or, in the same rows, {self.same_rows}"


ORDER = len("q, k, v")
"""With so many letters a packing of one tensor begins in words."""


def exchanged(label: str) -> str:
    """A packing in words, with Q and K each in the place of the other."""
    return label[:ORDER].translate(str.maketrans("qk", "kq")) + label[ORDER:]


_CLEAR = 60.0
"""The difference of two scores that stands for odds of over a thousand, as likelihoods overstate them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer that the weights give to one question.

    Attributes:
        weighed: all hypotheses, the most probable first; those that others explain come last.
        layers: the layers that were weighed.
        noise: the score that weights without heads hardly ever reach.
        confidence: how probable it is that the first is right, if one of them is; 0 where the heads do not
            stand out from noise.
        decided: whether that is sure enough to be given as an answer.
        apart: layers whose own weights speak for another answer, and for which; then nothing is decided.
        parted: a larger number of heads that those of the first fall into, if they do; then nothing is decided.
        stride: one row in so many was looked at.
    """

    weighed: tuple[Weighed, ...]
    layers: tuple[str, ...]
    noise: float
    confidence: float
    decided: bool
    apart: tuple[tuple[str, Weighed], ...] = ()
    parted: int | None = None
    stride: int = 1

    @property
    def best(self) -> Weighed:
        return self.weighed[0]

    def weighs(self, label: str) -> bool:
        """Whether a packing was told from the others."""
        return any(one.label == label for one in self.weighed)

    def tiled(self, num_heads: int) -> bool | None:
        """Whether so many heads that share kv heads are tiled; None where the weights do not tell."""
        scores = {one.tiled: one.score for one in self.weighed if one.num_heads == num_heads}
        if len(scores) < 2 or max(scores.values()) <= self.noise or abs(scores[True] - scores[False]) < _CLEAR:
            return None
        return scores[True] > scores[False]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the weights of a stack of layers reveal about its heads and packing.

    Attributes:
        packings: None where the tensors can be divided in one way only.
        turned: the heads of the transposed weights, where these explain the weights far better.
        turns: which rows of a head a rotary embedding turns together, by label; None where it was not asked.
        profile: (rows apart, how much two rows of a part that lie so far apart are tied, in nats a pair), in
            equal steps; empty where it was not asked for.
        as_declared: whether the packing that explains the weights best is that of the layout.
    """

    heads: Verdict | None
    packings: Verdict | None = None
    turned: Verdict | None = None
    turns: Verdict | None = None
    profile: tuple[tuple[int, float], ...] = ()
    as_declared: bool = True

    @property
    def layers(self) -> tuple[str, ...]:
        """Those that were weighed."""
        asked = self.heads or self.packings
        return asked.layers if asked is not None else ()
