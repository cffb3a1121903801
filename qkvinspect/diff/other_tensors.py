"""Compare the tensors outside attention, bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from qkvinspect.checkpoint import Region, TensorInfo
from qkvinspect.diff.difference import Comparison, TensorDifference, worst
from qkvinspect.diff.pairing import Prefixes, Renames, pair_names
from qkvinspect.diff.parts import whole
from qkvinspect.diff.tally import Advance, compare
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.weight import Weight, plain


@dataclass(frozen=True, slots=True)
class Others:
    """Which weight of A is compared with which of B; None where the other side has none.

    Attributes:
        by_values: how many pairs were made by what the weights hold.
    """

    pairs: Sequence[tuple[Weight | None, Weight | None]]
    by_values: int = 0

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes + b.nbytes for a, b in self.pairs if a and b)

    def regions(self, side: int) -> Iterator[Region]:
        """The lines that are read of one side."""
        for pair in self.pairs:
            weight = pair[side]
            if weight is not None and all(pair):
                yield from weight.regions

    def compare(self, tolerance: float | None, advance: Advance) -> Iterator[TensorDifference]:
        """Each pair in turn."""
        for a, b in self.pairs:
            if a is None or b is None:
                found = Comparison("removed" if a else "added", None, None, None)
            else:
                found = _compare(a, b, tolerance, advance)
            kinds = tuple((weight.dtype.name, weight.shape) for weight in (a, b) if weight)
            yield TensorDifference(a.name if a else None, b.name if b else None, kinds, found)


def pair_others(
    a: Weights,
    b: Weights,
    taken: tuple[set[str], set[str]],
    renames: Renames,
    prefixes: Collection[Prefixes],
    *,
    renamed: bool = False,
) -> Others:
    """Every weight that is in none of the layers, with that of the other side.

    Args:
        renamed: whether a converter wrote one side, which gives names of its own: then numbers tell as well.
    """
    left, right = ([name for name in side if name not in gone] for side, gone in zip((a, b), taken, strict=True))
    pairs = pair_names(left, right, renames, prefixes)
    known_a, known_b = {pair.a: pair.b for pair in pairs}, {pair.b for pair in pairs}
    by_values = 0
    if renamed:
        from qkvinspect.diff.by_values import alike

        alone = [name for name in left if name not in known_a], [name for name in right if name not in known_b]
        same = dict(alike(a, alone[0], b, alone[1]))
        known_a, known_b, by_values = known_a | same, known_b | set(same.values()), len(same)
    found = [(a[name], b[known_a[name]] if name in known_a else None) for name in left]
    return Others([*found, *((None, b[name]) for name in right if name not in known_b)], by_values)


def _compare(a: Weight, b: Weight, tolerance: float | None, advance: Advance) -> Comparison:
    if a.shape != b.shape:
        advance(a.nbytes + b.nbytes)
        return Comparison("reshaped", None, None, None)
    try:
        return compare(whole(a), whole(b), (), tolerance, advance)[0]
    except LayoutError:
        return _compare_odd(a.require_info(), b.require_info(), tolerance, advance)


def _compare_stored(a: TensorInfo, b: TensorInfo, tolerance: float | None, advance: Advance) -> Comparison:
    return _compare(plain(a), plain(b), tolerance, advance)


def _compare_odd(a: TensorInfo, b: TensorInfo, tolerance: float | None, advance: Advance) -> Comparison:
    """Compare tensors that cannot be seen as rows and columns: permuted axes, or rows that end within a byte."""
    if a.contiguous and b.contiguous and a.dtype == b.dtype:
        return compare(whole(plain(_bytes(a))), whole(plain(_bytes(b))), (), None, advance)[0]
    one, other = _in_order(a), _in_order(b)
    if a.strides == b.strides and one.contiguous:
        return compare(whole(plain(one)), whole(plain(other)), (), tolerance, advance)[0]
    if not a.shape or a.dtype.bits < 8 or b.dtype.bits < 8:
        raise LayoutError(f"cannot be compared with {b.name}", tensor=a.name, found=f"{a.dtype.name}, {b.dtype.name}")
    return Comparison(
        worst(_compare_stored(_at(a, i), _at(b, i), tolerance, advance).status for i in range(a.shape[0])),
        None,
        None,
        None,
    )


def _bytes(info: TensorInfo) -> TensorInfo:
    return replace(info, dtype=DTYPES["uint8"], shape=(info.nbytes,), strides=(1,))


def _in_order(info: TensorInfo) -> TensorInfo:
    """The axes in the order of the file, such as channels_last."""
    axes = sorted(zip(info.strides, info.shape, strict=True), reverse=True)
    return replace(info, shape=tuple(size for _, size in axes), strides=tuple(stride for stride, _ in axes))


def _at(info: TensorInfo, index: int) -> TensorInfo:
    offset = info.offset + index * info.strides[0]
    return replace(info, shape=info.shape[1:], strides=info.strides[1:], offset=offset)
