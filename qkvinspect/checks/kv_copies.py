"""Rows of K and V that repeat throughout: kv heads that were written once for every query head that shares them.

The rows alone tell it, so the number of heads need not be known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from qkvinspect.checks.head_values import Key
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.report import Attention, Part

if TYPE_CHECKING:
    from qkvinspect.weights.weight import Matrix

_GLANCE = 64
"""Columns of the first row that are looked for further down before anything else is read."""

_AT_ONCE = 1 << 22
"""Values that are held at a time."""


class RepeatedRows(NamedTuple):
    """Blocks of ``rows`` rows, of which each is written ``each`` times, one after the other."""

    rows: int
    each: int


@dataclass(frozen=True, slots=True)
class KvCopies:
    """How the kv heads of one part are repeated.

    Attributes:
        heads: how many there are. One may be several: repeated all together, they look like one of as many rows.
        throughout: whether all rows of this part are so, and not just those of the other layers of its stack.
    """

    layer: str
    part: str
    heads: int
    repeats: RepeatedRows
    throughout: bool

    @property
    def words(self) -> str:
        """``the heads of K are 4 kv heads, each written 2 times``."""
        count = f"{self.heads} kv heads" if self.heads > 1 else "one kv head or several"
        return f"the heads of {self.part.upper()} are {count}, each written {self.repeats.each} times"

    def same_head(self, first: int, second: int) -> bool:
        """Whether two rows of the part are one row of one kv head."""
        rows, each = self.repeats
        return first // (rows * each) == second // (rows * each) and (second - first) % rows == 0


def kv_copies(attentions: Sequence[Attention], stacks: Mapping[str, Sequence[Attention]]) -> Mapping[Key, KvCopies]:
    """The parts whose kv heads are repeated, where most layers of a stack have it, or both K and V of a layer.

    One part alone may be damaged. Of parts whose heads are known and lie side by side in the file nothing is read:
    their heads tell it.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    asked = [(one, part) for one in attentions for part in one.parts if part.name in "kv" and _is_asked(one, part)]
    found = {_key(part): _repeats(part) for _, part in asked}
    usual = {key: repeats for stack in stacks.values() for key, repeats in _usual(stack, found)}
    both = {one.layer: [found[_key(part)] for part in one.parts if _key(part) in found] for one, _ in asked}
    copies: dict[Key, KvCopies] = {}
    for attention, part in asked:
        own, others = found[_key(part)], both[attention.layer]
        alike = len(others) > 1 and len(set(others)) == 1
        repeats = own if alike and own else usual.get(_key(part))
        if repeats is not None:
            heads = part.shape[0] // (repeats.rows * repeats.each)
            copies[_key(part)] = KvCopies(attention.layer, part.name, heads, repeats, own == repeats)
    return copies


def _key(part: Part) -> Key:
    return part.weight.name, part.name


def _is_asked(attention: Attention, part: Part) -> bool:
    return not part.weight.why and (attention.heads is None or part.weight.encoding is not None)


def _usual(stack: Sequence[Attention], found: Mapping[Key, RepeatedRows | None]) -> Iterator[tuple[Key, RepeatedRows]]:
    """What most layers of a stack have, two and more, for each of its parts of that size."""
    for name in "kv":
        parts = [part for one in stack for part in one.parts if part.name == name and _key(part) in found]
        counts = Counter((part.shape, found[_key(part)]) for part in parts)
        for (shape, repeats), count in counts.most_common(1):
            if repeats is not None and 1 < count > len(parts) / 2:
                yield from ((_key(part), repeats) for part in parts if part.shape == shape)


def _repeats(part: Part) -> RepeatedRows | None:
    """How all rows of a part repeat, by the shortest block that does; None where they do not."""
    from qkvinspect.weights.values import tile_of_values

    matrix = part.weight.as_matrix(part.orientation)
    places = [row for run in part.rows for row in run]
    count, cols = len(places), range(min(matrix.cols, _GLANCE))
    if not count or not cols:
        return None
    first = tile_of_values(matrix, range(places[0], places[0] + 1), cols)
    if (first == first.flat[0]).all():
        return None  # rows of one value are alike anywhere
    for rows in (size for size in range(2, count // 2 + 1) if count % size == 0):
        below = range(places[rows], places[rows] + 1)
        if (tile_of_values(matrix, below, cols) == first).all() and (each := _each(matrix, places, rows)):
            return RepeatedRows(rows, each)
    return None


def _each(matrix: Matrix, places: Sequence[int], rows: int) -> int:
    """How many times each block of so many rows is written; 0 where some are more often than others."""
    blocks = [_digest(matrix, places[start : start + rows]) for start in range(0, len(places), rows)]
    each = next((at for at, block in enumerate(blocks) if block != blocks[0]), len(blocks))
    groups = [set(blocks[start : start + each]) for start in range(0, len(blocks), each)]
    return each if each > 1 and len(blocks) % each == 0 and all(len(group) == 1 for group in groups) else 0


def _digest(matrix: Matrix, places: Sequence[int]) -> bytes:
    from qkvinspect.layouts.packing import merge
    from qkvinspect.weights.values import rows_of_values

    digest = blake2b(digest_size=16)
    step = max(_AT_ONCE // max(matrix.cols, 1), 1)
    for start in range(0, len(places), step):
        runs = merge([range(row, row + 1) for row in places[start : start + step]])
        digest.update(rows_of_values(matrix, runs).tobytes())
    return digest.digest()
