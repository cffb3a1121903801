"""The tensors of one file that holds each as a run of bytes of its own, in a tenth of the room of their descriptions.

A million descriptions take as long to make as all else that is asked of them, and half a gigabyte; most tensors are
asked for no more than their name and shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from itertools import chain, islice
from typing import Any

from qkvinspect.checkpoint import ByteSource, Region, TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.late_pattern import late_pattern

BITS = 20
"""Those of a place that say which kind it is; the others are the offset of the first byte."""

KIND = (1 << BITS) - 1

_LATELY = 256
"""Descriptions that are kept: who compares two layers asks for each several times."""

_BEGIN = late_pattern(r"(?:[^.]*\.)+?[0-9]+(?=\.)")
"""What the names of a block begin with."""


class TensorKind(NamedTuple):
    """What many tensors have in common.

    Attributes:
        nbytes: of one of them.
    """

    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    nbytes: int


class LoneRegion(Region):
    """The bytes of one tensor; two are the same where they say the same."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoneRegion) and self.source is other.source and self._said == other._said

    def __hash__(self) -> int:
        return hash(self._start)

    @property
    def _said(self) -> tuple[int, int]:
        return self.start, self.nbytes


class BlockForm:
    """What blocks that are alike have in common. A *block* is what lies below the first number in names.

    Attributes:
        stack: what its names begin with, up to the number.
        ends: what follows the number in each.
        places: of each, if the bytes of the first began at 0.
    """

    __slots__ = ("_numbers", "ends", "places", "stack")

    def __init__(self, stack: str, ends: Sequence[str], places: Sequence[int]) -> None:
        self.stack, self.ends, self.places = stack, ends, places
        self._numbers: Mapping[str, int] = {}

    def number(self, end: str) -> int | None:
        """Which of the ends this is; None where it is none."""
        self._numbers = self._numbers or {one: number for number, one in enumerate(self.ends)}
        return self._numbers.get(end)


class NamedBlock(Sequence[str]):
    """The names of a block.

    Attributes:
        begin: what all of them begin with, the number included.
        base: what the places of the form are counted from.
        position: how many names stand before it in the file.
    """

    __slots__ = ("base", "begin", "form", "position")

    def __init__(self, form: BlockForm, number: str, base: int, position: int) -> None:
        self.form, self.begin, self.base, self.position = form, form.stack + number, base, position

    def __getitem__(self, at: Any) -> Any:
        ends = self.form.ends[at]
        return self.begin + ends if isinstance(ends, str) else [self.begin + end for end in ends]

    def __len__(self) -> int:
        return len(self.form.ends)

    def __iter__(self) -> Iterator[str]:
        return iter([self.begin + end for end in self.form.ends])

    def placed(self) -> Iterator[tuple[str, int]]:
        """Each name with its place."""
        base = self.base
        return zip(self, [base + place for place in self.form.places], strict=True)


class TensorTable(Mapping[str, TensorInfo]):
    """Tensors by name, each described when it is asked for.

    Args:
        kinds: each kind once.
        places: of each tensor, ``start << BITS | kind``, but for those in blocks.
        blocks: those that are like others, by what their names begin with.
    """

    __slots__ = ("_asked", "_lately", "_places", "_size", "_unlike", "blocks", "kinds", "source")

    def __init__(
        self, source: ByteSource, kinds: Sequence[TensorKind], places: dict[str, int], blocks: Mapping[str, NamedBlock]
    ) -> None:
        self.source, self.kinds, self._places, self.blocks = source, kinds, places, blocks
        self._size = len(places) + sum([len(block.form.ends) for block in blocks.values()])
        self._unlike: Sequence[str] = ()
        self._asked: NamedBlock | None = None
        self._lately: dict[str, TensorInfo] = {}

    def __getitem__(self, name: str) -> TensorInfo:
        made = self._lately.get(name)
        if made is None:
            made = self._made(name, self._place(name))
            if len(self._lately) >= _LATELY:
                self._lately.clear()
            self._lately[name] = made
        return made

    def get(self, key: str, default: TensorInfo | None = None) -> TensorInfo | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        place = self._found(key)
        return default if place is None else self._made(key, place)

    def __contains__(self, name: object) -> bool:
        return name in self._places or (isinstance(name, str) and self._in_block(name) is not None)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.placed()) if self.blocks else iter(self._places)

    def __len__(self) -> int:
        return self._size

    def items(self) -> ItemsView[str, TensorInfo]:
        return _TableItems(self)

    def values(self) -> ValuesView[TensorInfo]:
        return _TableValues(self)

    def placed(self) -> Iterator[tuple[str, int]]:
        """Every name with its place, in the order of the file."""
        for part in self.parts():
            yield from part.placed() if isinstance(part, NamedBlock) else part

    def parts(self) -> Iterator[NamedBlock | list[tuple[str, int]]]:
        """Blocks, and between them names that are in none, with their places; in the order of the file."""
        alone, done = iter(self._places.items()), 0
        for block in self.blocks.values():
            if block.position > done:
                yield [*islice(alone, block.position - done)]
            yield block
            done = block.position + len(block.form.ends)  # its own length takes longer to ask for
        yield [*alone]

    def described(self) -> Iterator[tuple[str, TensorInfo]]:
        """Every name with its tensor, each description for as long as it is held."""
        for name, place in self.placed():
            yield name, self._made(name, place)

    def counted(self) -> list[tuple[str, tuple[int, ...], int]]:
        """As ``counted_kinds``."""
        forms = Counter(id(block.form) for block in self.blocks.values())
        counted = Counter(place & KIND for place in self._places.values())
        for form in self.forms():
            for place in form.places:
                counted[place & KIND] += forms[id(form)]
        return [(kind.dtype.name, kind.shape, counted[at]) for at, kind in enumerate(self.kinds)]

    def forms(self) -> list[BlockForm]:
        """Those of its blocks."""
        return [*{id(block.form): block.form for block in self.blocks.values()}.values()]

    def unlike(self) -> Sequence[str]:
        """Names that stand for all but for the number of a block: those in none, and those of the block of each form
        whose number is shortest.
        """
        if not self._unlike:
            shortest: dict[int, NamedBlock] = {}
            for block in self.blocks.values():
                known = shortest.setdefault(id(block.form), block)
                if len(block.begin) < len(known.begin):
                    shortest[id(block.form)] = block
            self._unlike = [*self._places, *chain.from_iterable(shortest.values())]
        return self._unlike

    def positions(self, names: Set[str]) -> dict[str, int]:
        """How many names stand before each of some."""
        begins = {begin[0] for name in names if (begin := _BEGIN.match(name))} if self.blocks else set[str]()
        found: dict[str, int] = {}
        position = 0
        for part in self.parts():
            if not isinstance(part, NamedBlock) or part.begin in begins:
                held = part if isinstance(part, NamedBlock) else [name for name, _ in part]
                found |= {name: position + at for at, name in enumerate(held) if name in names}
            if len(found) == len(names):
                break
            position += len(part)
        return found

    def _found(self, name: str) -> int | None:
        place = self._places.get(name)
        return self._in_block(name) if place is None else place

    def _in_block(self, name: str) -> int | None:
        """The place of a tensor of a block; None where it is in none. Neighbours are mostly asked for together."""
        block = self._asked
        number = (
            None if block is None or not name.startswith(block.begin) else block.form.number(name[len(block.begin) :])
        )
        if number is None:
            found = _BEGIN.match(name) if self.blocks else None
            block = None if found is None else self.blocks.get(found[0])
            number = None if block is None else block.form.number(name[len(block.begin) :])
        if block is None or number is None:
            return None
        self._asked = block
        return block.base + block.form.places[number]

    def _place(self, name: str) -> int:
        place = self._found(name)
        if place is None:
            raise KeyError(name)
        return place

    def _made(self, name: str, place: int) -> TensorInfo:
        dtype, shape, strides, nbytes = self.kinds[place & KIND]
        region = LoneRegion(self.source, place >> BITS, nbytes)  # whose number of bytes is kept once for all of a kind
        return TensorInfo(name, dtype, shape, strides, region, 0, "little", (name,))

    def starts(self, names: Iterable[str]) -> list[int]:
        """The offsets of their first bytes."""
        return [self._place(name) >> BITS for name in names]

    def place(self, name: str) -> tuple[int, int]:
        """The offset of its first byte, and the place of its kind in ``kinds``."""
        place = self._place(name)
        return place >> BITS, place & KIND

    def kind(self, name: str) -> TensorKind:
        return self.kinds[self._place(name) & KIND]

    def kind_number(self, name: str) -> int | None:
        """Its place in ``kinds``; None where there is no such tensor."""
        place = self._found(name)
        return None if place is None else place & KIND


def unlike_names(tensors: Mapping[str, TensorInfo]) -> Iterable[str]:
    """Names that stand for all where the number of a layer says nothing."""
    return tensors.unlike() if isinstance(tensors, TensorTable) else tensors


class _TableItems(ItemsView[str, TensorInfo]):
    _mapping: TensorTable

    def __iter__(self) -> Iterator[tuple[str, TensorInfo]]:
        return self._mapping.described()


class _TableValues(ValuesView[TensorInfo]):
    _mapping: TensorTable

    def __iter__(self) -> Iterator[TensorInfo]:
        return (info for _, info in self._mapping.described())


def shape_in(tensors: Mapping[str, TensorInfo], name: str) -> tuple[int, ...]:
    """The shape of one."""
    return tensors.kind(name).shape if isinstance(tensors, TensorTable) else tensors[name].shape


def each_kind(tensors: Mapping[str, TensorInfo]) -> Iterable[TensorKind | TensorInfo]:
    """Dtypes and shapes of which some tensor is, in any order, and some of them more than once."""
    return tensors.kinds if isinstance(tensors, TensorTable) else tensors.values()


def counted_kinds(tensors: Mapping[str, TensorInfo]) -> Iterable[tuple[str, tuple[int, ...], int]]:
    """Each dtype and shape, in the order in which they first come, with how many tensors are of it."""
    if isinstance(tensors, TensorTable):
        return tensors.counted()
    counted = Counter((info.dtype.name, info.shape) for info in tensors.values())
    return [(dtype, shape, count) for (dtype, shape), count in counted.items()]
