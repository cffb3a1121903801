"""The streaming kernel: reads bytes and gives each output row's sum of squares and count of non-finite values.

Every packing, head and part is a set of rows, so any norm is a sum over these.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qkvinspect.checkpoint import Orientation, Region
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.reading import Array, Tile, numbers, tiles
from qkvinspect.weights.strided import StridedMatrix
from qkvinspect.weights.sums_of_squares import row_squares, value_squares
from qkvinspect.weights.values import ValueTile, value_tiles
from qkvinspect.weights.weight import Matrix, Weight
from qkvinspect.workers import in_order

Progress = Callable[[int], None]
"""Called with the number of bytes just processed."""

_PIECE = 4 << 20
"""Bytes read at once: with less, the threads wait for one another (the interpreter's lock) more than they work."""

_BATCH = 4 << 20
"""Bytes that a core takes at a time."""


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A weight to stream, and its orientation."""

    weight: Weight
    orientation: Orientation


@dataclass(frozen=True, slots=True)
class _Job:
    """A weight that has values, and its place among all."""

    number: int
    matrix: Matrix


@dataclass(frozen=True, slots=True)
class _PartialSums:
    """The sums of one piece.

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


def stream(requests: Sequence[StreamRequest], progress: Progress) -> Iterator[RowStats | None]:
    """The statistics of each of these weights, streamed on all cores in the order given; None of one without values.

    The result does not depend on the number of cores, as partial sums are added in that order.
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


_Work = tuple[_Job, Tile] | tuple[_Job, ValueTile]


def _batches(requests: Sequence[StreamRequest], jobs: deque[_Job | None]) -> Iterator[list[_Work] | Region]:
    """The tiles of all weights in batches of about equal size, and each storage that has a checksum before them.

    One storage more is verified than is read, so that no core waits for the one that does it.
    """
    batch: list[_Work] = []
    size = 0
    yield from _unchecked(requests[:1])
    for number, request in enumerate(requests):
        yield from _unchecked(requests[number + 1 : number + 2])
        job = _job(number, request)
        jobs.append(job)
        if job is None:
            continue
        for work in _tiles(job):
            batch.append(work)
            size += work[1].nbytes
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _unchecked(requests: Iterable[StreamRequest]) -> Iterator[Region]:
    for request in requests:
        for region in request.weight.regions:
            if not region.checked and region.nbytes > _PIECE:
                yield region


def _job(number: int, request: StreamRequest) -> _Job | None:
    weight = request.weight
    if weight.why or (weight.encoding is None and weight.dtype.kind == "opaque"):
        return None
    return _Job(number, weight.as_matrix(request.orientation))


def _tiles(job: _Job) -> Iterator[_Work]:
    if isinstance(job.matrix, StridedMatrix):
        for tile in tiles(job.matrix, _PIECE):
            yield job, tile
    else:
        for tile in value_tiles(job.matrix, _PIECE):
            yield job, tile


def _work(work: list[_Work] | Region) -> list[_PartialSums]:
    if isinstance(work, Region):
        work.check()
        return []
    return [_measure(job, tile) for job, tile in work]


def _measure(job: _Job, tile: Tile | ValueTile) -> _PartialSums:
    """Stored words are summed as they are, which is fast; what is decoded is summed as numbers."""
    if isinstance(tile, Tile):
        words, dtype = tile.read(), tile.matrix.info.dtype
        squares, odd = row_squares(words, dtype)
        values = [numbers(words[odd], dtype)] if len(odd) else []
    else:
        decoded = tile.read()
        squares, odd = value_squares(decoded)
        values = [[some[odd] for some in decoded]] if len(odd) else []
    part = _PartialSums(job.number, tile.nbytes, tile.rows, squares)
    return _looked_at(part, odd, values[0]) if values else part


def _looked_at(part: _PartialSums, odd: Array, values: Sequence[Array]) -> _PartialSums:
    """With the rows whose sums must be made carefully, or are not finite."""
    with np.errstate(all="ignore"):  # signalling NaN, and float64 squares beyond float64
        wide = [found.astype(np.float64) for found in values]
        part.squares[odd] = sum(np.einsum("ij,ij->i", found, found) for found in wide)
    finite = np.logical_and.reduce([np.isfinite(found) for found in wide])
    if finite.all():
        return part
    nan = np.logical_or.reduce([np.isnan(found) for found in wide])
    counts = np.zeros((2, len(part.squares)), np.int64)
    counts[:, odd] = (~finite).sum(axis=1), nan.sum(axis=1)
    return replace(part, odd=counts)
