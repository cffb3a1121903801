"""The streaming kernel: reads bytes and gives each output row's sum of squares and count of non-finite values.

Every packing, head and part is a set of rows, so any norm is a sum over these. numpy is imported only where it is
needed.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from math import nan, sqrt
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Orientation, Region
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.sources.briefly import AT_ONCE, is_filling
from qkvinspect.weights.compiled import squares_of, squares_of_rows
from qkvinspect.weights.neighbours import in_runs
from qkvinspect.weights.strided import StridedMatrix
from qkvinspect.weights.table_weight import table_of
from qkvinspect.weights.tiles import Tile, Verifiable, is_verifiable, tiles
from qkvinspect.weights.weight import Matrix, Weight
from qkvinspect.workers import in_order

if TYPE_CHECKING:
    from qkvinspect.weights.values import ValueTile

Progress = Callable[[int], None]
"""Called with the number of bytes just processed."""

_PIECE = 4 << 20
"""Bytes that are asked for at once."""

_SMALL = 1 << 16
"""Bytes of storages that are read twice rather than one after the other."""

_BATCH, _MANY = 4 << 20, 1024
"""Bytes that a core takes at a time, and pieces: what is made of each takes a kilobyte, however small it is."""


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
        squares: float64, of each row.
        odd: of each row that has values which are not finite, how many these are, and how many are NaN.
    """

    number: int
    nbytes: int
    rows: slice
    squares: memoryview[float]
    odd: Mapping[int, tuple[int, int]]


class RowStats:
    """Per output row: sum of squares (inf or nan where a value is not finite) and non-finite counts.

    Attributes:
        squares: float64.
        odd: as in a piece.
    """

    __slots__ = ("_begun", "odd", "squares")

    def __init__(self, rows: int) -> None:
        self.squares = array("d", bytes(8 * rows))
        self.odd: dict[int, tuple[int, int]] = {}
        self._begun = 0

    def add(self, part: _PartialSums) -> None:
        """Take in a piece of some of the rows."""
        if part.rows.start >= self._begun:
            memoryview(self.squares)[part.rows] = part.squares
            self._begun = part.rows.stop
        else:
            add_to(self.squares, part.rows, part.squares)
        for row, (nonfinite, nans) in part.odd.items():
            before = self.odd.get(part.rows.start + row, (0, 0))
            self.odd[part.rows.start + row] = before[0] + nonfinite, before[1] + nans

    def measure(self, rows: Sequence[range]) -> tuple[float, int]:
        """Frobenius norm and non-finite count of some rows; the norm is nan if any value is."""
        squares = 0.0
        for run in rows:
            squares += sum(self.squares[run.start : run.stop : run.step], 0.0)
        if not self.odd:
            return sqrt(squares), 0
        found = [self.odd[row] for r in rows for row in r if row in self.odd]
        nonfinite = sum(count for count, _ in found)
        return (nan if any(nans for _, nans in found) else sqrt(squares)), nonfinite

    def each(self, runs: Sequence[range]) -> list[tuple[float, int]]:
        """``measure`` of each run of rows."""
        if self.odd:
            return [self.measure((run,)) for run in runs]
        squares = self.squares
        return [(sqrt(sum(squares[run.start : run.stop : run.step], 0.0)), 0) for run in runs]


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
    return None if job is None else RowStats(job.matrix.rows)


_Work = tuple[_Job, "Tile | ValueTile"]


@dataclass(frozen=True, slots=True)
class _WholeStorage:
    """A weight that is all of a storage whose checksum has yet to be compared: both are done in one pass."""

    job: _Job
    matrix: StridedMatrix
    region: Verifiable


_Item = list[_Work] | _WholeStorage | Region


def _batches(requests: Sequence[StreamRequest], jobs: deque[_Job | None]) -> Iterator[_Item]:
    """The tiles of all weights in batches of about equal size, and each storage that has a checksum before them.

    One storage more is verified than is read, so that no core waits for the one that does it.
    """
    batch: list[_Work] = []
    size = 0
    following = chain(requests, (None,))
    yield from _unchecked(next(following))
    for number, request in enumerate(requests):
        yield from _unchecked(next(following))
        job = _job(number, request)
        jobs.append(job)
        if job is None:
            continue
        if whole := _whole_storage(job):
            yield from [batch] if batch else []
            yield whole
            batch, size = [], 0
            continue
        for work in _tiles(job):
            batch.append(work)
            size += work[1].nbytes
            if size >= _BATCH or len(batch) >= _MANY:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _unchecked(request: StreamRequest | None) -> Iterator[Region]:
    if request is None or table_of(request.weight) is not None:
        return
    for info in request.weight.stored:
        region = info.region
        if not region.checked and region.nbytes > _PIECE and not _whole_storage(_job(0, request)):
            yield region


def _whole_storage(job: _Job | None) -> _WholeStorage | None:
    matrix = job.matrix if job else None
    if job is None or not isinstance(matrix, StridedMatrix) or matrix.info.region.checked or not matrix.plain:
        return None
    region = matrix.info.region
    alone = matrix.offset == 0 and matrix.rows * matrix.cols * matrix.unit // 8 == region.nbytes
    if not alone or region.nbytes < _SMALL or not is_verifiable(region) or squares_of(matrix.info.dtype.name) is None:
        return None
    return _WholeStorage(job, matrix, region)


def _job(number: int, request: StreamRequest) -> _Job | None:
    weight = request.weight
    if weight.why or (weight.encoding is None and weight.dtype.kind == "opaque"):
        return None
    return _Job(number, weight.as_matrix(request.orientation))


def _tiles(job: _Job) -> Iterator[_Work]:
    if isinstance(job.matrix, StridedMatrix):
        local = is_filling(job.matrix.info.region.source)
        for tile in tiles(job.matrix, min(_PIECE, AT_ONCE) if local else _PIECE):
            yield job, tile
    else:
        from qkvinspect.weights.values import value_tiles

        for value_tile in value_tiles(job.matrix, _PIECE):
            yield job, value_tile


def _work(work: _Item) -> Sequence[_PartialSums]:
    if isinstance(work, Region):
        work.check()
        return []
    if isinstance(work, _WholeStorage):
        return _verified(work)
    return _of_tiles(work)


def _of_tiles(work: Sequence[_Work]) -> list[_PartialSums]:
    parts: list[_PartialSums] = []
    waiting = iter(work)
    for read in in_runs([tile for _, tile in work]):
        run = list(islice(waiting, len(read)))
        found = [_compiled(tile, data) for (_, tile), data in zip(run, read, strict=True)]
        parts += [_sums(job, tile, squares) for (job, tile), squares in zip(run, found, strict=True)]
    return parts


def _verified(whole: _WholeStorage) -> list[_PartialSums]:
    """While bytes are in the processor's cache, they go into both sums; the checksum is compared after the last."""
    every = list(tiles(whole.matrix, AT_ONCE))
    pieces = whole.region.pieces(tile.nbytes for tile in every)
    found = [squares_of_rows(tile, data) for data, tile in zip(pieces, every, strict=True)]
    return [_sums(whole.job, tile, squares) for tile, squares in zip(every, found, strict=True)]


def _compiled(tile: Tile | ValueTile, data: bytes | memoryview | None) -> memoryview[float] | None:
    """Stored words are summed as they are, which is fast; what is decoded is summed as numbers."""
    return squares_of_rows(tile, data) if isinstance(tile, Tile) else None


def _sums(job: _Job, tile: Tile | ValueTile, compiled: memoryview[float] | None) -> _PartialSums:
    if compiled is not None:
        return _PartialSums(job.number, tile.nbytes, tile.rows, compiled, {})
    from qkvinspect.weights.looking import looked_at

    return _PartialSums(job.number, tile.nbytes, tile.rows, *looked_at(tile))


def add_to(sums: array[float], rows: slice, more: memoryview[float]) -> None:
    """Rows of which there are several pieces: they are too long for one, or lie across the file."""
    import numpy as np

    np.frombuffer(sums)[rows] += np.frombuffer(more.cast("B"))
