"""The tensors of one file that holds each as a run of bytes of its own, in a tenth of the room of their descriptions.

A million descriptions take as long to make as all else that is asked of them, and half a gigabyte; most tensors are
asked for no more than their name and shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import NamedTuple

from qkvinspect.checkpoint import ByteSource, Region, TensorInfo
from qkvinspect.dtypes import DType

BITS = 20
"""Those of a place that say which kind it is; the others are the offset of the first byte."""

_KIND = (1 << BITS) - 1


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


class TensorTable(Mapping[str, TensorInfo]):
    """Tensors by name, each described when it is asked for.

    Args:
        kinds: each kind once.
        places: of each tensor, ``start << BITS | kind``.
    """

    __slots__ = ("_places", "kinds", "source")

    def __init__(self, source: ByteSource, kinds: Sequence[TensorKind], places: dict[str, int]) -> None:
        self.source, self.kinds, self._places = source, kinds, places

    def __getitem__(self, name: str) -> TensorInfo:
        return self._made(name, self._places[name])

    def get(self, key: str, default: TensorInfo | None = None) -> TensorInfo | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        place = self._places.get(key)
        return default if place is None else self._made(key, place)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def keys(self) -> KeysView[str]:
        return self._places.keys()

    def items(self) -> ItemsView[str, TensorInfo]:
        return _TableItems(self)

    def values(self) -> ValuesView[TensorInfo]:
        return _TableValues(self)

    def described(self) -> Iterator[tuple[str, TensorInfo]]:
        """Every name with its tensor, each description for as long as it is held."""
        for name, place in self._places.items():
            yield name, self._made(name, place)

    def counted(self) -> list[tuple[str, tuple[int, ...], int]]:
        """As ``counted_kinds``."""
        counted = Counter(place & _KIND for place in self._places.values())
        return [(self.kinds[at].dtype.name, self.kinds[at].shape, count) for at, count in counted.items()]

    def _made(self, name: str, place: int) -> TensorInfo:
        dtype, shape, strides, nbytes = self.kinds[place & _KIND]
        region = LoneRegion(self.source, place >> BITS, nbytes)  # whose number of bytes is kept once for all of a kind
        return TensorInfo(name, dtype, shape, strides, region, 0, "little", (name,))

    def starts(self, names: Iterable[str]) -> list[int]:
        """The offsets of their first bytes."""
        places = self._places
        return [places[name] >> BITS for name in names]

    def place(self, name: str) -> tuple[int, int]:
        """The offset of its first byte, and the place of its kind in ``kinds``."""
        place = self._places[name]
        return place >> BITS, place & _KIND

    def kind(self, name: str) -> TensorKind:
        return self.kinds[self._places[name] & _KIND]

    def kind_number(self, name: str) -> int | None:
        """Its place in ``kinds``; None where there is no such tensor."""
        place = self._places.get(name)
        return None if place is None else place & _KIND


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
