"""Modules that repeat another of their stack: no more than a name, and where to find it, until more is asked for.

A stack of a hundred thousand layers is one module that was looked at and the names of the others. What most of them
are asked for is the layer's name, the names of tensors and the norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from qkvinspect.fast_dataclass import replace
from qkvinspect.findings import Finding
from qkvinspect.inspection.candidates import Match
from qkvinspect.inspection.report import Attention, Measure, Part
from qkvinspect.tensor_table import NamedBlock

if TYPE_CHECKING:
    from qkvinspect.inspection.names import Path
    from qkvinspect.inspection.renamed import Renamed

Some = Callable[[Sequence[str]], tuple[str, ...]]
"""Takes some of the names that a block holds."""


def some_of(places: Sequence[int]) -> Some:
    """What stands at these places."""
    if len(places) > 1:
        several: Any = itemgetter(*places)
        return several

    def taken(held: Sequence[str]) -> tuple[str, ...]:
        return tuple([held[place] for place in places])

    return taken


class RepeatedMatch(Match):
    """A match like that of an earlier block.

    Attributes:
        like: that one; renamed: what is called how in its own block.
    """

    __slots__ = ("_begins", "_layer", "_names", "like", "renamed")
    like: Match
    renamed: Renamed
    _begins: int
    _layer: str
    _names: Some

    def __new__(cls, *values: Any, **named: Any) -> Any:
        """One that was given values of its own is like no other."""
        return Match(*values, **named)

    @staticmethod
    def of(like: Match, renamed: Renamed, layer: str, begins: int, names: Some) -> RepeatedMatch:
        """One of the block that is called so; the last two say what it has there."""
        made: Any = object.__new__(RepeatedMatch)
        made.decided_by, made.config, made.like, made.renamed = like.decided_by, like.config, like, renamed
        made._layer, made._begins, made._names = layer, begins, names
        return made

    @property
    def layer(self) -> str:
        return self._layer

    @property
    def begins(self) -> str:
        return self.renamed.held[self._begins]

    @property
    def position(self) -> int | None:
        """How many names stand before its first weight in the file, where the block says it."""
        held = self.renamed.held
        return held.position + self._begins if isinstance(held, NamedBlock) else None

    @property
    def names(self) -> tuple[str, ...]:
        return self._names(self.renamed.held)

    @property
    def path(self) -> Path:
        return self.renamed.path(self.like.path)

    def __getattr__(self, name: str) -> Any:
        """Nothing but the candidates is missing."""
        if name != "candidates":
            raise AttributeError(name)
        made: Any = self
        made.candidates = self.renamed.candidates(self.like)
        return self.candidates


def repeated_matches(one: Match, blocks: Iterable[Renamed]) -> Iterator[Match]:
    """The likes of a module in blocks that repeat its own.

    Raises:
        UnlikeError: it does not lie in its block alone.
    """
    names: Some | None = None
    place, cut, tail = 0, None, ""
    for renamed in blocks:
        if names is None:
            renamed.candidates(one)  # what can be said of one can be said of all
            names = some_of([renamed.place(name) for name in one.names])
            place, (cut, tail) = renamed.place(one.begins), renamed.cut(one.layer, one.begins)
        begins = renamed.held[place]
        yield RepeatedMatch.of(one, renamed, begins[:cut] + tail, place, names)


class LikeModules:
    """What the modules that repeat one have in common: that one, and which names of their blocks are theirs."""

    __slots__ = ("first", "names", "parts")

    def __init__(self, first: Attention, renamed: Renamed) -> None:
        """Take it from one of them.

        Raises:
            UnlikeError: they may differ from it.
        """
        renamed.attention(first)  # what can be said of one can be said of all
        self.first, self.parts = first, [part.name for part in first.parts]
        self.names = some_of([renamed.place(name) for name in first.tensor_names])

    def attention(self, layer: str, renamed: Renamed, norms: Figures | None = None) -> RepeatedAttention:
        """One of them."""
        made: Any = object.__new__(RepeatedAttention)
        made.layer, made.stack, made.renamed, made.norms = layer, self, renamed, norms
        return made


class RepeatedAttention(Attention):
    """An attention module like that of an earlier block; all but the name of its layer is made when it is asked for.

    Attributes:
        stack: what it shares with others.
        renamed: what is called how in its own block.
        norms: its ``figures``, where it was measured.
    """

    __slots__ = ("norms", "renamed", "stack")
    stack: LikeModules
    renamed: Renamed
    norms: Figures | None

    def __new__(cls, *values: Any, **named: Any) -> Any:
        """One that was given values of its own is like no other."""
        return Attention(*values, **named)

    @property
    def tensor_names(self) -> set[str]:
        return set(self.stack.names(self.renamed.held))

    def __getattr__(self, name: str) -> Any:
        if name not in Attention.__slots__:
            raise AttributeError(name)
        made = self.renamed.attention(self.stack.first)
        if self.norms is not None:
            made = replace(made, parts=tuple(with_norms(made.parts, self.norms)))
        for slot in Attention.__slots__:
            setattr(self, slot, getattr(made, slot))
        return getattr(self, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Attention) and _said(self) == _said(other)

    def __hash__(self) -> int:
        return Attention.__hash__(self)

    def __reduce__(self) -> tuple[type[Attention], tuple[Any, ...]]:
        return Attention, _said(self)


def _said(one: Attention) -> tuple[Any, ...]:
    return tuple(getattr(one, slot) for slot in Attention.__slots__)


def like(one: Attention) -> Attention:
    """The module that a module repeats, but for names and numbers; itself, if it repeats none."""
    return one.stack.first if isinstance(one, RepeatedAttention) else one


def written_like(one: Attention) -> Attention:
    """As ``like``, where its names differ from those of that one in nothing but a number; else itself."""
    return one.stack.first if isinstance(one, RepeatedAttention) and one.renamed.first.as_written else one


Figures = tuple[float | None, ...]
"""Norms of a module whose values are all finite: of the weights of its parts, of their biases, then of every head of
every weight; None for what has none."""


def with_norms(parts: Sequence[Part], figures: Figures) -> Iterator[Part]:
    """The parts with their norms."""
    at = 2 * len(parts)
    for number, part in enumerate(parts):
        norm, of_bias = figures[number], figures[len(parts) + number]
        heads = () if norm is None else figures[at : at + len(part.heads)]
        at += len(heads)
        yield replace(
            part,
            measured=None if norm is None else Measure(norm, 0),
            bias_measured=None if of_bias is None else Measure(of_bias, 0),
            head_measures=tuple([Measure(one, 0) for one in heads if one is not None]),
        )


def norms_of(one: Attention, names: Sequence[str]) -> tuple[float | None, ...]:
    """The norms of the parts of these names, then of their biases; None for what has none."""
    if isinstance(one, RepeatedAttention) and one.stack.parts == names:
        return (None,) * (2 * len(names)) if one.norms is None else one.norms[: 2 * len(names)]
    parts = [one.part(name) for name in names]
    measures = [*(part and part.measured for part in parts), *(part and part.bias_measured for part in parts)]
    return tuple([measure and measure.norm for measure in measures])


def nonfinite_of(one: Attention, names: Sequence[str]) -> int | None:
    """How many values of these parts and of their biases are not finite; None where none was looked at."""
    if isinstance(one, RepeatedAttention):
        return None if one.norms is None else 0
    parts = [part for name in names if (part := one.part(name)) is not None]
    counted = [one.nonfinite for part in parts for one in (part.measured, part.bias_measured) if one is not None]
    return sum(counted) if counted else None


About = Callable[[Attention], Iterable[Finding]]


def of_each(modules: Iterable[Attention], about: About) -> Iterator[Finding]:
    """What is to be said about modules, of which those of a stack are asked only if the first has something to say."""
    quiet: dict[int, bool] = {}
    for one in modules:
        first = like(one)
        if first is not one:
            if id(first) not in quiet:
                quiet[id(first)] = not any(True for _ in about(first))
            if quiet[id(first)]:
                continue
        yield from about(one)
