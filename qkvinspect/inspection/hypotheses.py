"""The hypotheses about some layers: each a way to divide them into heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.inspection import alternatives
from qkvinspect.inspection.facts.fact import HeadFact, SaidBy
from qkvinspect.inspection.match import Match
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.sizes import rows_of
from qkvinspect.inspection.split import split, unsplit
from qkvinspect.layouts import Layout
from qkvinspect.layouts.packing import Packing

if TYPE_CHECKING:
    from qkvinspect.inspection.evidence import Variants

_MOST_HEADS = 1024


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """The hypotheses for some layers of one stack.

    Attributes:
        matches: their tensors.
        attention: one of them, as far as it is understood.
    """

    matches: Sequence[Match]
    attention: Attention
    names: Names

    def counts(self) -> list[int]:
        """The numbers of heads worth weighing: that which is known, if one is, and those that divide the same rows."""
        possible = self.attention.possible_heads
        if not possible:
            known = self.attention.heads
            stored = max(match.candidates[0].shapes[0][0] for match in self.matches)
            rows = known.num_heads * known.head_dim if known is not None else stored
            dividing = {n for n in range(2, min(rows, _MOST_HEADS) + 1) if rows % n == 0}
            possible = sorted(dividing.union(self._of_each_candidate() if known is None else ()))
        return [n for n in possible if n > 1]

    def _of_each_candidate(self) -> Iterator[int]:
        """Numbers of heads of Q, of which a tensor holds more or fewer rows as each layout has it."""
        for candidate in self.matches[0].candidates:
            try:
                yield from split(unsplit(self.matches[0]), candidate, self.names, ())[0].possible_heads
            except LayoutError:
                continue

    def variants(self, layout: Callable[[Match], Layout], counts: Sequence[int]) -> Variants:
        """For each number of heads that fits, the first layer cut into that many: the others have its shapes."""
        found: dict[int, Attention] = {}
        for count in counts:
            try:
                one = self._cut(self.matches[0], layout(self.matches[0]), count)
            except LayoutError:
                continue
            if one.heads is not None and one.heads.num_heads == count and _thick(one):
                found[count] = one
        return found

    def repacked(self, own: Variants, layout: Layout, counts: Sequence[int]) -> Variants:
        """``variants`` of another packing of the same tensors: the same heads lie in other rows."""
        if layout.subheads or any(one.geometry is None or one.geometry.subheads for one in own.values()):
            return self.variants(lambda _: layout, counts)
        found = dict(self.variants(lambda _: layout, [count for count in counts if count not in own]))
        for count in counts:
            if count in own and (one := _in_rows_of(own[count], layout)) is not None:
                found[count] = one
        return {count: found[count] for count in counts if count in found}

    def layers(self, layout: Callable[[Match], Layout], first: Attention) -> list[Attention]:
        """All layers, cut as the first is; without an output projection that has another shape."""
        assert first.heads is not None
        found = [first]
        for match in self.matches[1:]:
            one = self._cut(match, layout(match), first.heads.num_heads)
            same = one.out is None or first.out is None or one.out.shape == first.out.shape
            found.append(one if same else replace(one, out=None, output=None))
        return found

    def _cut(self, match: Match, layout: Layout, count: int) -> Attention:
        known = self.attention.heads
        kv_heads = known.num_kv_heads if known is not None and known.num_heads == count else None
        candidate = replace(match.candidates[0], layout=layout)
        return split(
            unsplit(match), candidate, self.names, [HeadFact("weights", count, kv_heads, said_by=SaidBy.WEIGHTS)]
        )[0]


def _in_rows_of(own: Attention, layout: Layout) -> Attention | None:
    """The same heads of the same tensors in the rows that another packing gives them, if they fit."""
    assert own.layout is not None
    assert own.geometry is not None
    totals = [
        weight.as_shape(stored.orientation)[0] for stored, weight in zip(own.layout.weights, own.weights, strict=True)
    ]
    try:
        rows = rows_of(layout, own.geometry, totals)
    except LayoutError:
        return None
    placed = {
        part: (weight, heads) for weight, some in zip(own.weights, rows, strict=True) for part, heads in some.items()
    }
    if any(part.name not in placed for part in own.parts):
        return None
    parts = tuple(replace(part, weight=placed[part.name][0], heads=placed[part.name][1]) for part in own.parts)
    return replace(own, layout=layout, parts=parts)


def cut_from(own: Variants, packing: Packing) -> Variants:
    """The same numbers of heads, of parts that were cut from one tensor as if it held them in blocks."""
    found: dict[int, Attention] = {}
    for heads, attention in own.items():
        try:
            found[heads] = alternatives.cut_from(attention, packing)
        except LayoutError:
            continue
    return found


def _thick(attention: Attention) -> bool:
    """Whether every head has rows to compare."""
    return all(len(run) > 1 for part in attention.parts for run in part.heads[:1])
