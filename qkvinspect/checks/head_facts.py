"""What the checks need to know of every head beyond its norm: one more pass over the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from qkvinspect.inspection.report import Attention, Part
from qkvinspect.progress import Progress, counter
from qkvinspect.weights.strided import as_matrix

_READ = 64 << 20
"""Bytes of whole heads that are held at a time."""

_WIDEST = 1024
"""Rows of a head above which its spectrum is not looked at: it may be a whole part."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one head of one part.

    Attributes:
        digest: of its rows as nn.Linear would store them, little-endian: equal for equal bytes.
        lowest, highest: of its values; nan if one is not a number; None where bits have no value (quantised).
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


def gather(attentions: Sequence[Attention], progress: Progress | None = None) -> Mapping[Key, tuple[Facts, ...]]:
    """Read every part once.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    parts = [(attention, part) for attention in attentions for part in attention.parts]
    advance = counter(sum(_nbytes(part) for _, part in parts), progress)
    found: dict[Key, tuple[Facts, ...]] = {}
    for attention, part in parts:
        found[part.weight.name, part.name] = tuple(_facts(part, known=attention.heads is not None))
        advance(_nbytes(part))
    return found


def _nbytes(part: Part) -> int:
    return part.weight.dtype.nbytes(part.shape[0] * part.shape[1])


def _facts(part: Part, *, known: bool) -> Iterator[Facts]:
    """Of each head; a part whose heads are not known counts as one."""
    import numpy as np

    from qkvinspect.weights.reading import read_rows, stored_words

    matrix = as_matrix(part.weight, part.orientation)
    width = matrix.cols * matrix.unit // 8
    for first, last in _groups([len(rows) * width for rows in part.heads]):
        heads = part.heads[first:last]
        if sum(map(len, heads)) * width > _READ:  # one alone
            yield _streamed(read_rows(matrix, heads))
            continue
        data = b"".join(read_rows(matrix, heads))
        words = np.frombuffer(data, stored_words(part.weight.dtype, matrix.unit)).reshape(-1, matrix.cols)
        start = 0
        for rows in heads:
            stop = start + len(rows)
            digest = blake2b(memoryview(data)[start * width : stop * width], digest_size=16).digest()
            yield Facts(digest, *_numbers(part, words[start:stop], spectrum=known))
            start = stop


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


def _streamed(pieces: Iterator[bytes]) -> Facts:
    """Of a part that is too large to be held: its bytes alone."""
    digest = blake2b(digest_size=16)
    for piece in pieces:
        digest.update(piece)
    return Facts(digest.digest(), None, None, None)


def _numbers(part: Part, words: object, *, spectrum: bool) -> tuple[float | None, float | None, float | None]:
    """Lowest and highest value, and the stable rank."""
    import numpy as np

    from qkvinspect.weights.reading import numbers

    dtype = part.weight.dtype
    array = np.asarray(words)
    if dtype.kind in ("opaque", "complex") or not array.size:
        return None, None, None
    values = numbers(array, dtype)[0]
    lowest, highest = float(values.min()), float(values.max())
    if not spectrum or not 2 <= len(values) <= _WIDEST or not np.isfinite([lowest, highest]).all():
        return lowest, highest, None
    scale = max(abs(lowest), abs(highest))
    if not scale:
        return lowest, highest, None
    scaled = values.astype(np.float32) / np.float32(scale) if np.float32(scale) > 0 else values / scale
    spread = np.linalg.eigvalsh(scaled @ scaled.T)
    return lowest, highest, float(spread.sum() / spread[-1])
