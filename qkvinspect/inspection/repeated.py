"""Modules that repeat another of their stack: no more than a name, and where to find it, until more is asked for.

A stack of a hundred thousand layers is one module that was looked at and the names of the others. What most of them
are asked for is the layer's name, the names of tensors and the norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import sqrt
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from qkvinspect.fast_dataclass import replace
from qkvinspect.fast_tuple import NamedTuple
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


class LikeMatches(NamedTuple):
    """What the matches that repeat one have in common: that one, and which names of their blocks are theirs.

    Attributes:
        begins: the place of the first of them.
    """

    first: Match
    begins: int
    names: Some


class RepeatedMatch(Match):
    """A match like that of an earlier block.

    Attributes:
        stack: what it shares with others.
        renamed: what is called how in its own block.
    """

    __slots__ = ("_layer", "renamed", "stack")
    stack: LikeMatches
    renamed: Renamed
    _layer: str

    def __new__(cls, *values: Any, **named: Any) -> Any:
        """One that was given values of its own is like no other."""
        return Match(*values, **named)

    @staticmethod
    def of(stack: LikeMatches, renamed: Renamed, layer: str) -> RepeatedMatch:
        """One of the block that is called so."""
        made: Any = object.__new__(RepeatedMatch)
        made.stack, made.renamed, made._layer = stack, renamed, layer
        return made

    @property
    def layer(self) -> str:
        return self._layer

    @property
    def begins(self) -> str:
        return self.renamed.held[self.stack.begins]

    @property
    def position(self) -> int | None:
        """How many names stand before its first weight in the file, where the block says it."""
        held = self.renamed.held
        return held.position + self.stack.begins if isinstance(held, NamedBlock) else None

    @property
    def names(self) -> tuple[str, ...]:
        return self.stack.names(self.renamed.held)

    @property
    def path(self) -> Path:
        return self.renamed.path(self.stack.first.path)

    def __getattr__(self, name: str) -> Any:
        """Nothing but these is missing."""
        if name == "candidates":
            value = self.renamed.candidates(self.stack.first)
        elif name in ("decided_by", "config"):
            value = getattr(self.stack.first, name)
        else:
            raise AttributeError(name)
        setattr(self, name, value)
        return value


def repeated_matches(one: Match, blocks: Sequence[Renamed]) -> Iterator[RepeatedMatch]:
    """The likes of a module in blocks that repeat its own.

    Raises:
        UnlikeError: it does not lie in its block alone.
    """
    if not blocks:
        return
    renamed = blocks[0]
    renamed.candidates(one)  # what can be said of one can be said of all
    stack = LikeMatches(one, renamed.place(one.begins), some_of([renamed.place(name) for name in one.names]))
    (cut, tail), form, end = renamed.cut(one.layer, one.begins), None, None
    for renamed in blocks:
        held = renamed.held
        if isinstance(held, NamedBlock):
            if held.form is not form:
                form, layer = held.form, held[stack.begins][:cut] + tail
                end = layer.removeprefix(held.begin) if layer.startswith(held.begin) else None
            layer = held[stack.begins][:cut] + tail if end is None else held.begin + end
        else:
            layer = held[stack.begins][:cut] + tail
        yield RepeatedMatch.of(stack, renamed, layer)


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

    def attention(
        self, layer: str, renamed: Renamed, norms: FiguresOfMany | None = None, place: int = 0
    ) -> RepeatedAttention:
        """One of them.

        Args:
            place: of its norms among those of many.
        """
        made: Any = object.__new__(RepeatedAttention)
        made.layer, made.stack, made.renamed, made.norms, made.place = layer, self, renamed, norms, place
        return made


class RepeatedAttention(Attention):
    """An attention module like that of an earlier block; all but the name of its layer is made when it is asked for.

    Attributes:
        stack: what it shares with others.
        renamed: what is called how in its own block.
        norms: where it was measured, its figures among those of others; place: which of them.
    """

    __slots__ = ("norms", "place", "renamed", "stack")
    stack: LikeModules
    renamed: Renamed
    norms: FiguresOfMany | None
    place: int

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
            made = replace(made, parts=tuple(with_norms(made.parts, self.norms.of(self.place))))
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


def in_written_runs(modules: Iterable[Attention]) -> Iterator[tuple[Attention, list[Attention]]]:
    """As ``in_runs``, where names differ from those of that one in nothing but a number; else each by itself."""
    for first, some in in_runs(modules):
        last = some[-1]
        if isinstance(last, RepeatedAttention) and not last.renamed.first.as_written:
            yield from ((one, [one]) for one in some)
        else:
            yield first, some


Figures = tuple[float | None, ...]
"""Norms of a module whose values are all finite: of the weights of its parts, of their biases, then of every head of
every weight; None for what has none."""


class FiguresOfMany:
    """The figures of many modules that are alike.

    Args:
        squares: the square of each figure, of each module.
    """

    __slots__ = ("_squares",)

    def __init__(self, squares: Sequence[memoryview[float] | None]) -> None:
        self._squares = squares

    def of(self, place: int) -> Figures:
        """Those of one module."""
        return tuple([None if column is None else sqrt(column[place]) for column in self._squares])

    def column(self, number: int, places: slice) -> Sequence[float] | None:
        """One figure of several modules."""
        column = self._squares[number]
        return None if column is None else [*map(sqrt, column[places].tolist())]


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


def in_runs(modules: Iterable[Attention]) -> Iterator[tuple[Attention, list[Attention]]]:
    """Neighbours that repeat one module, behind that one, which may be the first of them."""
    first, run = None, list[Attention]()
    for one in modules:
        own = like(one)
        if own is not first:
            if first is not None:
                yield first, run
            first, run = own, []
        run.append(one)
    if first is not None:
        yield first, run


About = Callable[[Attention], Iterable[Finding]]


def of_each(modules: Iterable[Attention], about: About) -> Iterator[Finding]:
    """What is to be said about modules, of which those of a stack are asked only if the first has something to say."""
    quiet: dict[int, bool] = {}
    for first, some in in_runs(modules):
        if len(some) == 1 and some[0] is first:
            yield from about(first)
            continue
        if id(first) not in quiet:
            quiet[id(first)] = not any(True for _ in about(first))
        for one in () if quiet[id(first)] else some:
            yield from about(one)
