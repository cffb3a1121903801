"""The streaming kernel: bytes in; out, for every output row, its sum of squares and its non-finite values.

Every packing, head and part is a set of rows, so any norm is a sum over these.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from qkvinspect.checkpoint import Orientation, Region, TensorInfo
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.reading import Array, Tile, blocks, numbers, spans
from qkvinspect.weights.strided import Matrix, as_matrix
from qkvinspect.weights.sums_of_squares import row_squares, scaled_squares
from qkvinspect.workers import in_order

Progress = Callable[[int], None]
"""Told how many bytes have just been dealt with."""

Scale = Callable[[slice, slice], Array]
"""Gives the scales of some rows and columns."""

_PIECE = 4 << 20
"""Bytes read at once: with less, the threads wait for one another (the interpreter's lock) more than they work."""

_BATCH = 4 << 20
"""Bytes that a core takes at a time."""

_SCALE_BLOCK = 128  # DeepSeek and transformers: one scale for 128 x 128 values


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A tensor to stream.

    Attributes:
        scale: what the values must be multiplied by: a number, one a row, or one a block of rows and columns
            (DeepSeek's weight_scale_inv, 128 x 128).
    """

    info: TensorInfo
    orientation: Orientation
    scale: TensorInfo | None = None


@dataclass(frozen=True, slots=True)
class _Job:
    """A tensor that has values, and its place among all."""

    number: int
    matrix: Matrix
    scales: Scale | None


@dataclass(frozen=True, slots=True)
class _PartialSums:
    """What was found in a piece.

    Attributes:
        odd: how many values of each row are not finite, and how many are NaN; None where there are none.
    """

    number: int
    nbytes: int
    rows: slice
    squares: NDArray[np.float64]
    odd: NDArray[np.int64] | None = None


@dataclasses.dataclass(slots=True)
class RowStats:
    """Per output row: sum of squares (float64; inf where a value is not finite) and non-finite counts."""

    squares: NDArray[np.float64]
    _odd: NDArray[np.int64] | None = None

    @property
    def nonfinite(self) -> NDArray[np.int64]:
        """How many values are NaN or infinite."""
        return self._counts[0]

    @property
    def nans(self) -> NDArray[np.int64]:
        """How many values are NaN."""
        return self._counts[1]

    @property
    def _counts(self) -> NDArray[np.int64]:
        return np.zeros((2, len(self.squares)), np.int64) if self._odd is None else self._odd

    def add(self, part: _PartialSums) -> None:
        """Take in a piece of some of the rows."""
        self.squares[part.rows] += part.squares
        if part.odd is not None:
            self._odd = self._counts
            self._odd[:, part.rows] += part.odd

    def measure(self, rows: Sequence[range]) -> tuple[float, int]:
        """Frobenius norm and non-finite count of some rows; the norm is nan if any value is."""
        squares = sum(float(self.squares[r.start : r.stop : r.step].sum()) for r in rows)
        if self._odd is None:
            return float(np.sqrt(squares)), 0
        nonfinite = sum(int(self.nonfinite[r.start : r.stop : r.step].sum()) for r in rows)
        if any(self.nans[r.start : r.stop : r.step].any() for r in rows):
            return float("nan"), nonfinite
        return float(np.sqrt(squares)), nonfinite


def row_stats(
    info: TensorInfo, orientation: Orientation, progress: Progress, *, scale: TensorInfo | None = None
) -> RowStats | None:
    """Stream one tensor; None if its bits have no value of their own (quantised types).

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    (found,) = stream([StreamRequest(info, orientation, scale)], progress)
    return found


def stream(requests: Sequence[StreamRequest], progress: Progress) -> Iterator[RowStats | None]:
    """What ``row_stats`` finds in each of these tensors, streamed on all cores in the order given.

    It does not depend on how many cores there are: what they find is added up in that order.
    """
    jobs: deque[_Job | None] = deque()
    begun = 0
    found: RowStats | None = None
    for parts in in_order(_work, _batches(requests, jobs)):
        for part in parts:
            while begun <= part.number:
                if begun:
                    yield found
                found = _nothing(jobs.popleft())
                begun += 1
            assert found is not None
            found.add(part)
            progress(part.nbytes)
    if begun:
        yield found
    yield from map(_nothing, jobs)


def _nothing(job: _Job | None) -> RowStats | None:
    if job is None:
        return None
    return RowStats(np.zeros(job.matrix.rows))


_Pieces = list[tuple[_Job, Tile]]


def _batches(requests: Sequence[StreamRequest], jobs: deque[_Job | None]) -> Iterator[_Pieces | Region]:
    """The pieces of all tensors in batches of about equal size, and each storage that has a checksum before them.

    One storage more is verified than is read, so that no core waits for the one that does it.
    """
    batch: _Pieces = []
    size = 0
    yield from _unchecked(requests[:1])
    for number, request in enumerate(requests):
        yield from _unchecked(requests[number + 1 : number + 2])
        job = _job(number, request)
        jobs.append(job)
        if job is None:
            continue
        for span in spans(job.matrix, _PIECE):
            batch.append((job, span))
            size += span.nbytes
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _unchecked(requests: Iterable[StreamRequest]) -> Iterator[Region]:
    for request in requests:
        region = request.info.region
        if not region.checked and region.nbytes > _PIECE:
            yield region


def _job(number: int, request: StreamRequest) -> _Job | None:
    if request.info.dtype.kind == "opaque":
        return None
    matrix = as_matrix(request.info, request.orientation)
    scales = scales_of(request.scale, matrix) if request.scale is not None else None
    return None if request.scale is not None and scales is None else _Job(number, matrix, scales)


def _work(work: _Pieces | Region) -> list[_PartialSums]:
    if isinstance(work, Region):
        work.check()
        return []
    return [_measure(job, span) for job, span in work]


def _measure(job: _Job, span: Tile) -> _PartialSums:
    words, dtype = span.read(), job.matrix.info.dtype
    scales = job.scales(span.rows, span.cols) if job.scales is not None else None
    squares, odd = row_squares(words, dtype) if scales is None else scaled_squares(words, dtype, scales)
    part = _PartialSums(job.number, span.nbytes, span.rows, squares)
    if not len(odd):
        return part
    with np.errstate(all="ignore"):  # signalling NaN, and float64 squares beyond float64
        values = [found.astype(np.float64) for found in numbers(words[odd], dtype)]
        values = [found * scales[odd] for found in values] if scales is not None else values
        squares[odd] = sum(np.einsum("ij,ij->i", found, found) for found in values)
    finite = np.logical_and.reduce([np.isfinite(found) for found in values])
    if finite.all():
        return part
    nan = np.logical_or.reduce([np.isnan(found) for found in values])
    counts = np.zeros((2, len(words)), np.int64)
    counts[:, odd] = (~finite).sum(axis=1), nan.sum(axis=1)
    return replace(part, odd=counts)


def scales_of(info: TensorInfo, matrix: Matrix) -> Scale | None:
    """Gives the scale of every value of a block; None where the scales have a form that is not known."""
    grid = as_matrix(info, "out_in")
    high, wide = _scale_block(matrix.rows, grid.rows), _scale_block(matrix.cols, grid.cols)
    if high is None or wide is None:
        return None
    table = np.zeros((grid.rows, grid.cols))
    for rows, cols, words in blocks(grid):
        table[rows, cols] = numbers(words, info.dtype)[0]

    def at(rows: slice, cols: slice) -> Array:
        down = [row // high for row in range(rows.start, rows.stop)]
        across = [col // wide for col in range(cols.start, cols.stop)]
        return table[down][:, across]

    return at


def _scale_block(size: int, count: int) -> int | None:
    """How many values along one axis share a scale."""
    if count == 1:
        return size
    if count == size:
        return 1
    return _SCALE_BLOCK if count == ceil(size / _SCALE_BLOCK) else None
