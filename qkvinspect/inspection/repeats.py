"""The blocks of a stack that are alike, so that what was found in the first of them holds in all.

A *block* is what lies below the first number in names: ``encoder.layers.3``. It *repeats* an earlier one of its stack
if both hold the same names with the same shapes and dtypes, in the same order. A model of ten thousand layers has one
or two blocks that differ, and looking for attention in each would take most of the time of a short command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import NamedTuple

from qkvinspect.fast_dataclass import replace
from qkvinspect.findings import Finding
from qkvinspect.inspection.candidates import Candidate, Match
from qkvinspect.inspection.leftovers import Leftover
from qkvinspect.inspection.names import Names, Path
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.inspection.split import as_vector
from qkvinspect.inspection.words import speaks_of_attention, word_of
from qkvinspect.tensor_table import TensorTable
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.head_list import heads_of
from qkvinspect.weights.head_stack import HeadStack, stack_of_heads
from qkvinspect.weights.weight import Weight

TENSOR = "tensor:"
"""What the origin of a fact begins with that a tensor says."""


class UnlikeError(Exception):
    """What was found does not lie in one block alone, so that no other block has its like."""


class Repeats:
    """Which blocks of a checkpoint repeat which.

    Attributes:
        firsts: the path of each tensor but those of blocks that repeat another, by stored name.
    """

    firsts: Mapping[str, Path]

    def __init__(self, names: Names, *, compare: bool = True) -> None:
        """Compare the blocks, or, where ``compare`` is false, take none for alike."""
        self._names = names
        self._held: dict[Path, list[str]] = {}
        self._of: dict[Path, list[Path]] = {}
        self._alike: set[Path] = set()
        self.firsts = names.paths
        if compare:
            self._compare()

    def _compare(self) -> None:
        numbers: dict[object, int] = {}
        weights = self._names.weights
        table = weights.tensors if isinstance(weights.tensors, TensorTable) and not weights.encoded else None
        kinds: dict[Path, list[int]] = {}
        block, size = (), 0
        kind, held = list[int](), list[str]()
        for name, path in self._names.paths.items():
            if not size or path[:size] != block:  # neighbours mostly share a block
                at = _first_number(path)
                size = at + 1 if at > 0 and _holds_layers(path[:at]) else 0
                block = path[:size]
                kind, held = kinds.setdefault(block, []), self._held.setdefault(block, [])
            if size:
                alike = self._kind(name) if table is None else table.kind_number(name)
                kind.append(numbers.setdefault((path[size:], alike), len(numbers)))
                held.append(name)
        first: dict[tuple[Path, tuple[int, ...]], Path] = {}
        again: set[Path] = set()
        for block, kind in kinds.items():
            one = first.setdefault((block[:-1], tuple(kind)), block)
            if one is not block:
                self._alike |= {one, block}
                self._of.setdefault(one, []).append(block)
                again.add(block)
        if again:
            self.firsts = dict(self._outside(again))

    def _outside(self, again: Set[Path]) -> Iterator[tuple[str, Path]]:
        """What is in none of some blocks: a set of the names that are would take as much room as a table of all."""
        sizes = {len(block) for block in again}
        block, within = (), False
        for name, path in self._names.paths.items():
            if not within or path[: len(block)] != block:  # neighbours mostly share a block
                block = next((path[:size] for size in sizes if path[:size] in again), ())
                within = bool(block)
            if not within:
                yield name, path

    def _kind(self, name: str) -> object:
        """What must be the same of two tensors; its own name for one that is not plain numbers."""
        tensors, encoded = self._names.weights.tensors, self._names.weights.encoded.get(name)
        if encoded is None and isinstance(tensors, TensorTable):
            number = tensors.kind_number(name)
            return name if number is None else number
        info = tensors.get(name)
        heads = None if encoded is None else heads_of(encoded)
        if encoded is not None and heads is not None:
            info = encoded.stored[0]
        elif info is None or encoded is not None:
            return name
        return heads, info.shape, info.strides, info.dtype.name, info.byteorder

    def block(self, path: Path) -> Path:
        """The block that holds a path, if others repeat it; else ()."""
        block = path[: _first_number(path) + 1]
        return block if block in self._of else ()

    def block_of(self, name: str) -> Path:
        """The same for a tensor."""
        return self.block(self._names.paths[name])

    def begins(self, path: Path) -> str:
        """The first tensor of the block that holds a path, if it repeats another or others repeat it; else ""."""
        return self._held[block][0] if (block := path[: _first_number(path) + 1]) in self._alike else ""

    def without_likes(self, known: Set[str], taken: Set[str]) -> Mapping[str, Path]:
        """Tensors in neither set, but for those of a block of which the block that it repeats has the like.

        Nothing that depends on names and shapes within a module is in the block if it is not in that one; blocks with
        tensors that lie in no module of their own are left as they are.
        """
        paths = self._names.paths
        found = {name: path for name, path in self.firsts.items() if name not in known and name not in taken}
        for first, others in self._of.items():
            held = self._held[first]
            within = all(len(paths[name]) > len(first) + 1 for name in held if name in found)
            of_first = [list(map(some.__contains__, held)) for some in (known, taken)]
            for other in others:
                held = self._held[other]
                if not within or [list(map(some.__contains__, held)) for some in (known, taken)] != of_first:
                    found |= {name: paths[name] for name in held if name not in known and name not in taken}
        return found

    def others(self, block: Path) -> Iterator[Renamed]:
        """How what is in a block is called in each that repeats it."""
        places = {name: place for place, name in enumerate(self._held.get(block, ()))}
        first = FirstBlock(self._names.weights, block, places, self._names.as_written)
        for other in self._of.get(block, ()):
            yield Renamed(first, other, self._held[other])


class FirstBlock(NamedTuple):
    """The block that others repeat.

    Attributes:
        places: of the names that it holds.
        as_written: whether names differ from its own in nothing but the number of the block.
    """

    weights: Weights
    path: Path
    places: Mapping[str, int]
    as_written: bool


class Renamed:
    """What a block that repeats another calls what that one holds.

    Every method raises ``UnlikeError`` where it is given what does not lie in the block.

    Args:
        first: that one.
        other: the path of the one that repeats it.
        held: the names in this.
    """

    __slots__ = ("_other", "first", "held")

    def __init__(self, first: FirstBlock, other: Path, held: Sequence[str]) -> None:
        self.first, self._other, self.held = first, other, held

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
        return (*self._other, *path[len(first) :])

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
        return replace(one, layer=layer)


def _seen_as(one: Weight, other: Weight) -> Weight:
    """The other as the one is seen: heads of three axes as one matrix, their biases as one vector."""
    if isinstance(one.encoding, HeadStack) and other.info is not None:
        return stack_of_heads(other.info, one.encoding.axes)
    return as_vector(other) if len(one.shape) == 1 < len(other.shape) else other


def _first_number(path: Path) -> int:
    for at, part in enumerate(path):
        if part.isdecimal():
            return at
    return -1


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@lru_cache(1 << 12)
def _holds_layers(stack: Path) -> bool:
    """Whether the numbers that follow may be those of layers: not where they count the heads or matrices of one."""
    return not any(speaks_of_attention(part) or word_of(part) or "head" in part.lower() for part in stack)
