"""What the checks need of every head besides its norm, in one more pass over the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from qkvinspect.inspection.report import Attention, Part
from qkvinspect.layouts.packing import merge
from qkvinspect.progress import Progress, counter
from qkvinspect.weights.strided import StridedMatrix
from qkvinspect.weights.weight import Matrix

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

_READ = 64 << 20
"""Bytes of whole heads that are held at a time."""

_WIDEST = 1024
"""Rows of a head above which its spectrum is not computed: it may be a whole part."""


@dataclass(frozen=True, slots=True)
class HeadValues:
    """The values of one head of one part, summarised.

    Attributes:
        digest: a hash of its rows as nn.Linear would store them, little-endian.
        lowest, highest: its extreme values; nan if one is not a number; None where the values are not known.
        stable_rank: squared Frobenius norm over squared spectral norm, from 1 (all rows are multiples of one)
            to the number of rows; None where it was not computed.
    """

    digest: bytes
    lowest: float | None
    highest: float | None
    stable_rank: float | None

    @property
    def constant(self) -> bool:
        """Whether all values are the same number, as far as that is known."""
        return self.lowest is not None and self.lowest == self.highest


Key = tuple[str, str]
"""The stored tensor and the part: two modules may have one name."""


def read_heads(
    attentions: Sequence[Attention], progress: Progress | None = None
) -> Mapping[Key, tuple[HeadValues, ...]]:
    """Read every part once.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    parts = [(attention, part) for attention in attentions for part in attention.parts]
    advance = counter(sum(_nbytes(part) for _, part in parts), progress)
    found: dict[Key, tuple[HeadValues, ...]] = {}
    for attention, part in parts:
        found[part.weight.name, part.name] = tuple(_values(part, known=attention.heads is not None))
        advance(_nbytes(part))
    return found


def _nbytes(part: Part) -> int:
    return part.weight.dtype.nbytes(part.shape[0] * part.shape[1])


def _values(part: Part, *, known: bool) -> Iterator[HeadValues]:
    """Read each head; a part whose heads are not known counts as one head."""
    if part.weight.why:
        return
    matrix = part.weight.as_matrix(part.orientation)
    yield from _stored(part, matrix, known) if isinstance(matrix, StridedMatrix) else _decoded(part, matrix, known)


def _stored(part: Part, matrix: StridedMatrix, spectrum: bool) -> Iterator[HeadValues]:
    """Read heads that are stored as plain numbers: equal bytes are equal heads."""
    import numpy as np

    from qkvinspect.weights.reading import numbers, read_rows, stored_words

    dtype, width = part.weight.dtype, matrix.cols * matrix.unit // 8
    for first, last in _groups([len(rows) * width for rows in part.heads]):
        heads = part.heads[first:last]
        count = sum(map(len, heads))
        if count * width > _READ:  # one head alone may be too large
            yield _streamed(read_rows(matrix, heads))
            continue
        data = b"".join(read_rows(matrix, merge(heads)))  # which mostly lie side by side
        words = np.frombuffer(data, stored_words(dtype, matrix.unit)).reshape(count, matrix.cols)
        start = 0
        for rows in heads:
            stop = start + len(rows)
            digest = _digest(memoryview(data)[start * width : stop * width])
            single = dtype.kind not in ("opaque", "complex")
            values = numbers(words[start:stop], dtype)[0] if single else words[:0]
            yield HeadValues(digest, *_numbers(values, spectrum=spectrum))
            start = stop


def _decoded(part: Part, matrix: Matrix, spectrum: bool) -> Iterator[HeadValues]:
    """Read heads that are stored as codes: equal numbers are equal heads, whatever their codes."""
    from qkvinspect.weights.values import rows_of_values, value_tiles

    for rows in part.heads:
        if len(rows) * matrix.cols * 8 > _READ:
            tiles = value_tiles(matrix.take(rows))
            yield _streamed(tile.read()[0].tobytes() for tile in tiles)
            continue
        values = rows_of_values(matrix, [rows])
        yield HeadValues(_digest(values.tobytes()), *_numbers(values, spectrum=spectrum))


def _groups(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring heads that fit in memory together."""
    first, held = 0, 0
    for index, size in enumerate(sizes):
        if held and held + size > _READ:
            yield first, index
            first, held = index, 0
        held += size
    if sizes:
        yield first, len(sizes)


def _streamed(pieces: Iterator[bytes]) -> HeadValues:
    """Hash a part that is too large for memory; nothing else is known of it."""
    digest = blake2b(digest_size=16)
    for piece in pieces:
        digest.update(piece)
    return HeadValues(digest.digest(), None, None, None)


def _digest(data: bytes | memoryview) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _numbers(values: Array, *, spectrum: bool) -> tuple[float | None, float | None, float | None]:
    """The lowest and the highest value, and the stable rank."""
    import numpy as np

    if not values.size:
        return None, None, None
    lowest, highest = float(values.min()), float(values.max())
    if not spectrum or not 2 <= len(values) <= _WIDEST or not np.isfinite([lowest, highest]).all():
        return lowest, highest, None
    scale = max(abs(lowest), abs(highest))
    if not scale:
        return lowest, highest, None
    narrow = np.finfo(np.float32)  # beyond it, float64 is first brought to a size that float32 holds
    fits = values.dtype == np.float32 or float(narrow.tiny) < scale < float(narrow.max)
    scaled = values.astype(np.float32) / np.float32(scale) if fits else (values / scale).astype(np.float32)
    spread = np.linalg.eigvalsh(scaled @ scaled.T)
    return lowest, highest, float(spread.sum() / spread[-1])
