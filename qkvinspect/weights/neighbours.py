"""Small pieces that lie near each other in a file of this machine are read together.

A call to the system takes as long as copying fifty kilobytes, and more where threads wait for each other after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import ByteSource
from qkvinspect.sources.briefly import AT_ONCE, is_filling, read_briefly
from qkvinspect.weights.tiles import Tile

if TYPE_CHECKING:
    from qkvinspect.weights.values import ValueTile

Read = Sequence[bytes | memoryview | None]
"""Of each piece what is stored there; None where it is to be read alone."""

_SMALL = 32 << 10
"""Bytes of a piece, and of what lies between two."""


def in_runs(pieces: Sequence[Tile | ValueTile]) -> Iterator[Read]:
    """The bytes of all pieces, in their order, those of neighbours at once; to be used before more are taken.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    at: ByteSource | None = None
    run: list[tuple[int, int]] = []
    for piece in pieces:
        place = _place(piece)
        if place is not None and run and place[0] is at:
            _, start, stop = place
            if 0 <= start - run[-1][1] <= _SMALL and stop - run[0][0] <= AT_ONCE:
                run.append((start, stop))
                continue
        if run:
            yield _read(at, run)
            run = []
        if place is None:
            yield (None,)
        else:
            at, *span = place
            run = [(span[0], span[1])]
    if run:
        yield _read(at, run)


def _read(source: ByteSource | None, run: Sequence[tuple[int, int]]) -> Read:
    if source is None or len(run) == 1:
        return (None,)
    first, last = run[0][0], run[-1][1]
    data = memoryview(read_briefly(source, first, last - first))
    return [data[start - first : stop - first] for start, stop in run]


def _place(piece: Tile | ValueTile) -> tuple[ByteSource, int, int] | None:
    """The file and the bytes of a piece that may be read with others."""
    if not isinstance(piece, Tile) or piece.nbytes > _SMALL or not piece.plain:
        return None
    region = piece.matrix.info.region
    place = (
        region.place(piece.offset * piece.matrix.unit // 8) if region.checked and is_filling(region.source) else None
    )
    return (*place, place[1] + piece.nbytes) if place is not None and is_filling(place[0]) else None
