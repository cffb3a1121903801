"""Compare two lists of rows tile by tile: identical, equal up to rounding, or changed, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import sqrt

import numpy as np

from qkvinspect.diff.difference import IDENTICAL, Comparison, Spot
from qkvinspect.diff.ordered_rows import Lines, tiles
from qkvinspect.dtypes import DTYPES, DType
from qkvinspect.fast_dataclass import replace
from qkvinspect.weights.reading import Array
from qkvinspect.weights.rounding import rounded
from qkvinspect.weights.strided import StridedMatrix

_SURE = 1 + 2.0**-3
"""How much the rounding of the scale itself adds to half a step: a float16 scale moves the 127th code of 8 bits by an
eighth of it, a quotient in bfloat16 a float8 by as much."""

_AT_ONCE = 1 << 20
"""Bytes that are compared at a time where all of them are one run."""

Advance = Callable[[int], None]
"""Called with the number of bytes that have just been read."""


def compare(
    a: Lines, b: Lines, heads: Sequence[range], tolerance: float | None, advance: Advance
) -> tuple[Comparison, tuple[Comparison, ...]]:
    """All the rows, and each head.

    Values count as changed unless one side rounded to the other's dtype is the other. A value that is finite on
    one side only is always changed: a number that became infinite in float16 is lost, not rounded.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if a.shape != b.shape:
        whole = Comparison("reshaped", None, None, None)
        return whole, ()
    if _same_bits(a, b, advance):
        return IDENTICAL, (IDENTICAL,) * len(heads)
    if not (a.comparable and b.comparable):
        return Comparison("changed", None, None, None), ()
    with np.errstate(all="ignore"):  # signalling NaN, and squares beyond float64
        return _compared(a, b, heads, tolerance)


def _compared(
    a: Lines, b: Lines, heads: Sequence[range], tolerance: float | None
) -> tuple[Comparison, tuple[Comparison, ...]]:
    tallies = (_Tally(a, b, into) for into in _directions(a.exact_in, b.exact_in))
    tally = min(tallies, key=lambda one: int(one.changed.sum()))
    parts = tuple(
        replace(one, largest=one.largest and replace(one.largest, head=head))
        for head, one in enumerate(tally.of(run, tolerance) for run in heads)
    )
    whole = tally.of(range(a.rows), tolerance)
    if whole.largest and heads:
        place = (whole.largest.column or 0) if a.flipped else whole.largest.row
        whole = replace(whole, largest=replace(whole.largest, head=place // len(heads[0])))
    return whole, parts


def _same_bits(a: Lines, b: Lines, advance: Advance) -> bool:
    """Whether every stored bit is the same; reading ends where one is not."""
    stored = isinstance(a.matrix, StridedMatrix) and isinstance(b.matrix, StridedMatrix)
    same, before = stored and a.dtype == b.dtype, 0
    for size, equal in _looks(a, b) if same else ():
        advance(size)
        before += size
        if not equal:
            same = False
            break
    advance(a.nbytes + b.nbytes - before)
    return same


def _looks(a: Lines, b: Lines) -> Iterator[tuple[int, bool]]:
    """Bytes of both that are read at a time, and whether they are equal."""
    one, other = a.one_run, b.one_run
    if one is None or other is None or (one.turned, one.nbytes) != (other.turned, other.nbytes):
        for rows, cols in tiles(a, b):
            words = a.words(rows, cols), b.words(rows, cols)
            yield sum(side.nbytes for side in words), np.array_equal(*words)
        return
    for at in range(0, one.nbytes, _AT_ONCE):
        size = min(_AT_ONCE, one.nbytes - at)
        yield 2 * size, one.region.read(one.start + at, size) == other.region.read(other.start + at, size)


def _directions(a: DType, b: DType) -> Iterator[DType]:
    """The dtypes to which values are rounded before they are compared: the narrower one, or both."""
    if a.bits >= b.bits:
        yield b
    if b.bits >= a.bits and a != b:
        yield a


def rounded_through(a: Lines, b: Lines) -> str | None:
    """The 16-bit dtype that the values of A were once rounded to, if B holds the result in a wider dtype."""
    if a.shape != b.shape or min(a.dtype.bits, b.dtype.bits) < 32:
        return None
    for dtype in (DTYPES["bfloat16"], DTYPES["float16"]):
        pairs = ((side.values(side.words(*tile)) for side in (a, b)) for tile in tiles(a, b))
        if not any(_unequal(rounded(x, dtype), y).any() for x, y in pairs):
            return dtype.name
    return None


class _Tally:
    """Sums and extremes of every row."""

    def __init__(self, a: Lines, b: Lines, into: DType) -> None:
        self._flipped, self._vector = a.flipped, a.vector
        of_a, of_b = a.exact_in, b.exact_in
        rows = a.rows
        self.touched = np.zeros(rows, bool)
        self.changed, self.nonfinite = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self.count = np.zeros(rows, np.int64)
        self.sums = np.zeros((rows, 4))  # A·A, B·B, A·B, (B-A)·(B-A)
        self.steps = np.zeros(rows)  # squares of the differences, in half steps of the codes
        self.most, self.gap = np.full(rows, -1.0), np.zeros(rows)
        self.column, self.values = np.zeros(rows, np.int64), np.zeros((rows, 2))
        for down, across in tiles(a, b):
            rows = slice(down.start, down.stop)
            one, other = a.words(down, across), b.words(down, across)
            x, y = _equally_wide(a.values(one), b.values(other))
            if a.dtype != b.dtype or of_a != of_b:
                self.touched[rows] |= (x != y).any(axis=1) if a.made_in == b.made_in else True
                differs = _unequal(x if of_a == into else rounded(x, into), y if of_b == into else rounded(y, into))
            elif a.dtype.kind in ("float", "complex"):
                self.touched[rows] |= (one != other).any(axis=1)
                differs = _unequal(x, y)
            else:
                differs = one != other  # float64 does not hold every int64
                self.touched[rows] |= differs.any(axis=1)
            if differs.any() and (slack := _slack(a, b, down, across)) is not None:
                differs &= ~self._within(rows, slack, x, y)
            self._add(rows, across, differs, x.astype(np.float64), y.astype(np.float64))

    def _within(self, rows: slice, slack: Array, x: Array, y: Array) -> Array:
        """Which numbers differ by no more than quantisation may have changed them."""
        gap = np.abs(x.astype(np.float64) - y)
        known = np.isfinite(gap) & (slack > 0)
        steps = np.divide(gap, slack, out=np.zeros_like(gap), where=known)
        self.steps[rows] += np.einsum("ij,ij->i", steps, steps)
        return gap <= slack * _SURE

    def _add(self, rows: slice, across: range, differs: Array, x: Array, y: Array) -> None:
        self.count[rows] += x.shape[1]
        finite = np.isfinite(x) & np.isfinite(y)
        whole = bool(finite.all())
        if not whole:
            differs |= np.isfinite(x) != np.isfinite(y)
        p, q = (x, y) if whole else (np.where(finite, x, 0), np.where(finite, y, 0))
        gap = np.abs(q - p)
        pairs = ((p, p), (q, q), (p, q), (gap, gap))
        self.sums[rows] += np.stack([np.einsum("ij,ij->i", one, other) for one, other in pairs], axis=1)
        self.gap[rows] = np.maximum(self.gap[rows], gap.max(axis=1))
        if not differs.any():
            return
        self.changed[rows] += differs.sum(axis=1)
        self.nonfinite[rows] += (differs & ~finite).sum(axis=1)
        weight = np.where(differs, np.where(finite, gap, np.inf), -1.0)
        column = weight.argmax(axis=1)
        lines = np.arange(len(column))
        (better,) = np.nonzero(weight[lines, column] > self.most[rows])
        at, column = rows.start + better, column[better]
        self.most[at] = weight[better, column]
        self.column[at] = across.start + column % len(across)  # imaginary parts stand behind the real ones
        self.values[at, 0], self.values[at, 1] = x[better, column], y[better, column]

    def of(self, rows: range, tolerance: float | None) -> Comparison:
        """The tallies of some rows, added up."""
        some = slice(rows.start, rows.stop)
        aa, bb, ab, dd = (float(total) for total in self.sums[some].sum(axis=0))
        if not self.touched[some].any():
            return IDENTICAL
        changed, nonfinite = int(self.changed[some].sum()), int(self.nonfinite[some].sum())
        relative = sqrt(dd / aa) if aa else sqrt(dd) and float("inf")
        found = Comparison(
            "changed" if changed else "rounding",
            relative_l2=relative,
            max_difference=float(self.gap[some].max(initial=0.0)),
            cosine=_cosine(aa, bb, ab),
            changed=changed,
            count=int(self.count[some].sum()),
            nonfinite=nonfinite,
            emptied=aa > 0 and bb == 0 and nonfinite == 0,
            steps=sqrt(float((self.steps[some] / np.maximum(self.count[some], 1)).max(initial=0.0))),
        )
        if not changed:
            return found
        row = rows.start + int(self.most[some].argmax())
        column = int(self.column[row])
        place = (row, None) if self._vector else (column, row) if self._flipped else (row, column)
        forgiven = tolerance is not None and relative <= tolerance and not nonfinite
        spot = Spot(*place, float(self.values[row, 0]), float(self.values[row, 1]))
        return replace(found, status="tolerated" if forgiven else "changed", largest=spot)


def _equally_wide(x: Array, y: Array) -> tuple[Array, Array]:
    """Real numbers as complex ones whose imaginary parts are zero, where the other side is complex."""
    wide = max(x.shape[1], y.shape[1])
    x, y = (one if one.shape[1] == wide else np.hstack([one, np.zeros_like(one)]) for one in (x, y))
    return x, y


def _slack(a: Lines, b: Lines, rows: range, cols: range) -> Array | None:
    """By how much quantisation may have changed each number; None where neither side is quantised."""
    slacks = [slack.astype(np.float64) for side in (a, b) if (slack := side.slack(rows, cols)) is not None]
    return sum(slacks[1:], slacks[0]) if slacks else None


def _unequal(x: Array, y: Array) -> Array:
    return (x != y) & ~(np.isnan(x) & np.isnan(y))


def _cosine(aa: float, bb: float, ab: float) -> float | None:
    length = sqrt(aa) * sqrt(bb)
    return max(-1.0, min(1.0, ab / length)) if length else None
