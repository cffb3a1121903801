"""Compare the tensors outside attention, bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from qkvinspect.checkpoint import Checkpoint, Region, TensorInfo
from qkvinspect.computed_rows import ComputedScale
from qkvinspect.diff.difference import IDENTICAL, Comparison, TensorDifference, worst
from qkvinspect.diff.pairing import Prefixes, Renames, pair_names
from qkvinspect.diff.parts import whole
from qkvinspect.diff.shared_tensors import SharedTensors
from qkvinspect.diff.tally import Advance, compare
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.weight import Weight, plain

_STEPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""The relative distance of neighbours in a dtype; of others that of float32."""


@dataclass(frozen=True, slots=True)
class Others:
    """Which weight of A is compared with which of B; None where the other side has none.

    Attributes:
        by_values: how many pairs were made by what the weights hold.
        one_more: names of A of which B holds one more in each number, as llama.cpp's converter writes Gemma's norms,
            which multiply by that; and of which A does.
        turned: names of A of which B holds the transposed matrix, as llama.cpp's converter writes GPT-2's Conv1D.
    """

    pairs: Sequence[tuple[Weight | None, Weight | None]]
    by_values: int = 0
    one_more: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    turned: frozenset[str] = frozenset()

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
            elif a.name in self.one_more[0] or a.name in self.one_more[1]:
                found = _compare_shifted(a, b, 1 if a.name in self.one_more[0] else -1)
                advance(a.nbytes + b.nbytes)
            elif a.name in self.turned:
                found = compare(whole(a, "in_out"), whole(b), (), tolerance, advance)[0]
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
    shared: tuple[SharedTensors, SharedTensors],
    renamed: bool = False,
    computed: tuple[Collection[str], Collection[str]] = ((), ()),
) -> Others:
    """Every weight that is in none of the layers, with that of the other side.

    Args:
        shared: the vectors of each side that stand for several.
        renamed: whether a converter wrote one side, which gives names of its own: then numbers tell as well.
        computed: scales of norms that an exporter computed, of each side: only the weights that they were computed of
            are sought by their numbers.
    """
    left, right = ([name for name in side if name not in gone] for side, gone in zip((a, b), taken, strict=True))
    pairs = pair_names(left, right, renames, prefixes)
    known_a, known_b = {pair.a: pair.b for pair in pairs}, {pair.b for pair in pairs}
    by_values = 0
    shifted: list[frozenset[str]] = [frozenset(), frozenset()]
    turned: dict[str, str] = {}
    if renamed or any(computed):
        from qkvinspect.diff.by_values import alike

        alone = [name for name in left if name not in known_a], [name for name in right if name not in known_b]
        same = dict(alike(a, alone[0], b, alone[1])) if renamed else {}
        for side, more in enumerate((1, -1)):
            ours, theirs = _left(alone[0], same), _left(alone[1], same.values())
            if not renamed:  # it is the computed side that holds one more
                ours = ours if more > 0 else [name for name in ours if name in computed[0]]
                theirs = theirs if more < 0 else [name for name in theirs if name in computed[1]]
            moved = dict(alike(a, ours, b, theirs, more=more))
            shifted[side] = frozenset(moved)
            same |= moved
        if renamed:
            turned = dict(alike(a, _left(alone[0], same), b, _left(alone[1], same.values()), turned=True))
            same |= turned
        known_a, known_b, by_values = known_a | same, known_b | set(same.values()), len(same)
    found: list[tuple[Weight | None, Weight | None]] = []
    for name in left:
        found.append((a[name], b[known_a[name]] if name in known_a else shared[1].like(a[name])))
    found += [(shared[0].like(b[name]), b[name]) for name in right if name not in known_b]
    return Others(found, by_values, (shifted[0], shifted[1]), frozenset(turned))


def computed_scales(checkpoint: Checkpoint) -> frozenset[str]:
    """Scales of norms that an exporter computed of the weights that the model has."""
    return frozenset(one.weight for one in checkpoint.computed if isinstance(one, ComputedScale))


def _compare(a: Weight, b: Weight, tolerance: float | None, advance: Advance) -> Comparison:
    if a.shape != b.shape:
        advance(a.nbytes + b.nbytes)
        return Comparison("reshaped", None, None, None)
    try:
        return compare(whole(a), whole(b), (), tolerance, advance)[0]
    except LayoutError:
        return _compare_odd(a.require_info(), b.require_info(), tolerance, advance)


def _left(names: Sequence[str], known: Collection[str]) -> list[str]:
    gone = set(known)
    return [name for name in names if name not in gone]


def _compare_shifted(a: Weight, b: Weight, more: int) -> Comparison:
    """A vector whose numbers are one larger on the other side, but for the rounding of the dtype it was added in."""
    import numpy as np

    from qkvinspect.weights.values import rows_of_values

    ours, theirs = (
        np.asarray(rows_of_values(one.as_matrix("out_in"), [range(one.numel)]), np.float64).ravel() for one in (a, b)
    )
    gap = theirs - (ours + more)
    if not np.isfinite(gap).all():
        return Comparison("changed", None, None, None)
    size, plain = float(np.linalg.norm(ours + more)), a if more > 0 else b
    step = _STEPS.get(plain.dtype.name, 2.0**-23) * np.maximum(np.abs(ours), np.abs(theirs))
    changed = int((np.abs(gap) > step).sum())
    largest = float(np.abs(gap).max(initial=0.0))
    if not largest:
        return IDENTICAL
    relative = float(np.linalg.norm(gap)) / size if size else None
    return Comparison("changed" if changed else "rounding", relative, largest, None, changed, len(gap))


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
