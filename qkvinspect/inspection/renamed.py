"""What a block that repeats another calls what that one holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qkvinspect.fast_dataclass import replace
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.findings import Finding
from qkvinspect.inspection.candidates import Candidate, Match
from qkvinspect.inspection.leftovers import Leftover
from qkvinspect.inspection.names_by_path import Path
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.inspection.split import as_vector
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.head_stack import HeadStack, stack_of_heads
from qkvinspect.weights.weight import Weight

TENSOR = "tensor:"
"""What the origin of a fact begins with that a tensor says."""


class UnlikeError(Exception):
    """What was found does not lie in one block alone, so that no other block has its like."""


class FirstBlock(NamedTuple):
    """The block that others repeat.

    Attributes:
        places: of the names that it holds.
        paths: of all names of the checkpoint.
        as_written: whether names differ from its own in nothing but the number of the block.
    """

    weights: Weights
    path: Path
    places: Mapping[str, int]
    paths: Mapping[str, Path]
    as_written: bool


class Renamed:
    """What a block that repeats another calls what that one holds.

    Every method raises ``UnlikeError`` where it is given what does not lie in the block.

    Args:
        first: that one.
        held: the names in the one that repeats it.
    """

    __slots__ = ("first", "held")

    def __init__(self, first: FirstBlock, held: Sequence[str]) -> None:
        self.first, self.held = first, held

    def place(self, name: str) -> int:
        """Of a stored tensor among those of each block."""
        place = self.first.places.get(name)
        if place is None:
            raise UnlikeError(name)
        return place

    def name(self, name: str) -> str:
        """Of a stored tensor."""
        return self.held[self.place(name)]

    def weight(self, one: Weight) -> Weight:
        made = _seen_as(one, self.first.weights[self.name(one.name)])
        if made.shape != one.shape:  # it was given another one since
            raise UnlikeError(one.name)
        return made

    def path(self, path: Path) -> Path:
        first = self.first.path
        if path[: len(first)] != first:
            raise UnlikeError(".".join(path))
        return (*self.first.paths[self.held[0]][: len(first)], *path[len(first) :])

    def cut(self, layer: str, name: str) -> tuple[int | None, str]:
        """Where a layer's stored name ends in that of one of its tensors, and what it adds to that."""
        shared = len(layer) if name.startswith(layer) else _shared(layer, name)
        return shared - len(name) or None, layer[shared:]

    def layer(self, layer: str, weight: Weight) -> str:
        """Of a layer's stored name, to which that of one of its tensors adds something."""
        cut, more = self.cut(layer, weight.name)
        return self.name(weight.name)[:cut] + more

    def candidates(self, one: Match) -> tuple[Candidate, ...]:
        """Of a module that was found."""
        known, *others = one.candidates
        first = self._candidate(known)
        found = [first]
        for other in others:
            same = other.weights is known.weights and other.layer is known.layer and other.path is known.path
            found.append(
                Candidate(other.layout, first.path, first.layer, first.weights, other.settled)
                if same
                else self._candidate(other)
            )
        return tuple(found)

    def _candidate(self, one: Candidate) -> Candidate:
        layer = self.layer(one.layer, one.weights[0])
        return Candidate(one.layout, self.path(one.path), layer, tuple(map(self.weight, one.weights)), one.settled)

    def leftover(self, one: Leftover) -> Leftover:
        weights = tuple(map(self.weight, one.tensors))
        return replace(one, path=self.path(one.path), module=self.layer(one.module, one.tensors[0]), tensors=weights)

    def attention(self, one: Attention) -> Attention:
        """Of a module whose heads are known from what is outside of it."""
        said, facts = one.heads_fact, one.weighed_facts
        if said is not None and said.origin.startswith(TENSOR):
            said = replace(said, origin=self.source(said.origin))
        if any(fact.source.startswith(TENSOR) for fact in facts):
            facts = tuple(replace(fact, source=self.source(fact.source)) for fact in facts)
        known: dict[str, Weight] = {}  # each is made once: whoever asks whether two are the same is told so

        def weight(one: Weight) -> Weight:
            made = known.get(one.name)
            if made is None:
                made = known[one.name] = self.weight(one)
            if made.shape != one.shape:
                raise UnlikeError(one.name)
            return made

        def part(one: Part) -> Part:
            bias = None if one.bias is None else weight(one.bias)
            return Part(one.name, weight(one.weight), one.orientation, one.in_features, one.heads, bias, one.bias_heads)

        output, out, out_bias = one.output, one.out, one.out_bias
        return replace(
            one,
            layer=self.layer(one.layer, one.weights[0]),
            heads_fact=said,
            weighed_facts=facts,
            tensors={role: self.name(name) for role, name in one.tensors.items()},
            parts=tuple(map(part, one.parts)),
            others=tuple(map(part, one.others)),
            output=output if output is None else part(output),
            out=out if out is None else weight(out),
            out_bias=out_bias if out_bias is None else weight(out_bias),
            weights=tuple(map(weight, one.weights)),
            biases=tuple(map(weight, one.biases)),
            extras=tuple((weight(info), meaning) for info, meaning in one.extras),
        )

    def source(self, source: str) -> str:
        """Of what says how many heads there are: a tensor of the module itself, or what speaks of all modules."""
        return TENSOR + self.name(source.removeprefix(TENSOR)) if source.startswith(TENSOR) else source

    def finding(self, one: Finding, first: str, layer: str) -> Finding:
        """Of a finding about the layer called ``first``."""
        if one.layer != first or first in one.message:
            raise UnlikeError(first)
        return one.of(layer)


def _seen_as(one: Weight, other: Weight) -> Weight:
    """The other as the one is seen: heads of three axes as one matrix, their biases as one vector."""
    if isinstance(one.encoding, HeadStack) and other.info is not None:
        return stack_of_heads(other.info, one.encoding.axes)
    return as_vector(other) if len(one.shape) == 1 < len(other.shape) else other


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
