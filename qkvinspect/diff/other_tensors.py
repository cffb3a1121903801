"""The tensors outside attention, bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.diff.difference import Comparison, TensorDifference, worst
from qkvinspect.diff.pairing import Prefixes, Renames, pair_names
from qkvinspect.diff.parts import whole
from qkvinspect.diff.tally import Advance, compare
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError


@dataclass(frozen=True, slots=True)
class Others:
    """Which tensor of A is compared with which of B; None where the other side has none."""

    pairs: Sequence[tuple[TensorInfo | None, TensorInfo | None]]

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes + b.nbytes for a, b in self.pairs if a and b)

    def compare(self, tolerance: float | None, advance: Advance) -> Iterator[TensorDifference]:
        """Each pair in turn."""
        for a, b in self.pairs:
            if a is None or b is None:
                found = Comparison("removed" if a else "added", None, None, None)
            else:
                found = _compare(a, b, tolerance, advance)
            kinds = tuple((info.dtype.name, info.shape) for info in (a, b) if info)
            yield TensorDifference(a.name if a else None, b.name if b else None, kinds, found)


def pair_others(
    a: Checkpoint, b: Checkpoint, taken: tuple[set[str], set[str]], renames: Renames, prefixes: Collection[Prefixes]
) -> Others:
    """Every tensor that is in none of the layers, with that of the other side."""
    left, right = (
        [name for name in side.tensors if name not in gone] for side, gone in zip((a, b), taken, strict=True)
    )
    pairs = pair_names(left, right, renames, prefixes)
    known_a, known_b = {pair.a: pair.b for pair in pairs}, {pair.b for pair in pairs}
    found = [(a.tensors[name], b.tensors[known_a[name]] if name in known_a else None) for name in left]
    return Others([*found, *((None, b.tensors[name]) for name in right if name not in known_b)])


def _compare(a: TensorInfo, b: TensorInfo, tolerance: float | None, advance: Advance) -> Comparison:
    if a.shape != b.shape:
        advance(a.nbytes + b.nbytes)
        return Comparison("reshaped", None, None, None)
    try:
        return compare(whole(a), whole(b), (), tolerance, advance)[0]
    except LayoutError:
        return _compare_odd(a, b, tolerance, advance)


def _compare_odd(a: TensorInfo, b: TensorInfo, tolerance: float | None, advance: Advance) -> Comparison:
    """Tensors that have no form of rows and columns: an order of axes of its own, or rows that end within a byte."""
    if a.contiguous and b.contiguous and a.dtype == b.dtype:
        return compare(whole(_bytes(a)), whole(_bytes(b)), (), None, advance)[0]
    one, other = _in_order(a), _in_order(b)
    if a.strides == b.strides and one.contiguous:
        return compare(whole(one), whole(other), (), tolerance, advance)[0]
    if not a.shape or a.dtype.bits < 8 or b.dtype.bits < 8:
        raise LayoutError(f"cannot be compared with {b.name}", tensor=a.name, found=f"{a.dtype.name}, {b.dtype.name}")
    return Comparison(
        worst(_compare(_at(a, i), _at(b, i), tolerance, advance).status for i in range(a.shape[0])), None, None, None
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
