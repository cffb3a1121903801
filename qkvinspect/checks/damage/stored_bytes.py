"""The stored bytes of attention tensors, and which heads and parts they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.weights.weight import Weight

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that is one run of bytes.

    Attributes:
        itemsize: bytes of a stored word; 1 of what is packed.
        parts: the parts of the layer that it holds; none of what is an output projection.
        by_rows: whether an output projection lies as nn.Linear has it: its heads are columns.
    """

    layer: str
    weight: Weight
    info: TensorInfo
    itemsize: int
    parts: tuple[Part, ...]
    by_rows: bool = False

    @property
    def nbytes(self) -> int:
        return self.info.nbytes

    @property
    def packed(self) -> bool:
        """Whether values share words or lie elsewhere than in the weight's own rows."""
        return self.weight.encoding is not None and self.info.shape != self.weight.shape

    @property
    def _is_flat(self) -> bool:
        """Whether it is one column of bytes, as bitsandbytes has it, row after row of the weight."""
        return self.packed and self.info.shape[1:] == (1,) and self.nbytes % self.weight.shape[0] == 0

    def is_zero_at(self, start: int) -> bool:
        """Whether the codes of the row that begins at a byte stand for zeros; not known of words of several codes."""
        from qkvinspect.weights.values import rows_of_values

        if not self._is_flat:
            return self.info.dtype.bits == 8
        row = start // self.row_bytes
        return not rows_of_values(self.weight.as_matrix("out_in"), [range(row, row + 1)]).any()

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the first axis; of the whole tensor where rows do not end on bytes."""
        rows = self.weight.shape[0] if self._is_flat else self.info.shape[0] if self.info.shape else 1
        return self.nbytes // rows if rows and self.nbytes % rows == 0 else self.nbytes

    def read(self, start: int, stop: int) -> Array:
        """Bytes, as they are stored.

        Raises:
            CheckpointError: they cannot be read.
        """
        import numpy as np

        first = self.info.offset * self.info.dtype.bits // 8
        return np.frombuffer(self.info.region.read(first + start, max(stop - start, 0)), np.uint8)

    def heads_at(self, start: int, stop: int) -> dict[str, list[int]]:
        """The heads of each part that have values there, where rows or columns determine it."""
        found: dict[str, list[int]] = {}
        for part in self.parts:
            if self.packed:
                continue
            reached = self.reach(start, stop, part)
            heads = [head for head, rows in enumerate(part.heads) if overlap(rows, reached)]
            if heads:
                found[part.name] = heads
        return found

    def reach(self, start: int, stop: int, part: Part) -> range:
        """The rows of the part's matrix, or the columns where it lies the other way round, that some bytes are of."""
        if part.axis == 0:
            return range(start // self.row_bytes, -(-stop // self.row_bytes))
        if stop - start >= self.row_bytes:
            return range(prod(self.info.shape[1:]))
        first, last = start % self.row_bytes, (stop - 1) % self.row_bytes + 1
        if last < first:
            return range(prod(self.info.shape[1:]))
        return range(first // self.itemsize, -(-last // self.itemsize))


def overlap(rows: range, reached: range) -> bool:
    """Whether two ranges have a number in common; ``reached`` has steps of one."""
    if rows.step == 1:
        return rows.start < reached.stop and reached.start < rows.stop
    return any(row in reached for row in rows)


def stored_tensors(attentions: Sequence[Attention]) -> Iterator[StoredTensor]:
    """Of every layer the tensors with its weights, each storage once."""
    seen: set[tuple[object, ...]] = set()
    for attention in attentions:
        for weight in (*attention.weights, *((attention.out,) if attention.out else ())):
            if weight.why or not weight.stored:
                continue
            info = weight.stored[0]
            first = next(iter(info.region.extents), None)
            key = (first.source.name, first.start, info.offset) if first else (info.name,)
            if key in seen or not info.contiguous or not info.nbytes or (info.dtype.bits % 8 and info.dtype.block == 1):
                continue
            seen.add(key)
            plain = weight.encoding is None and info.dtype.block == 1 and info.dtype.kind != "complex"
            itemsize = info.dtype.bits // 8 if plain and info.dtype.bits in (8, 16, 32, 64) else 1
            parts = tuple(part for part in attention.parts if part.weight.name == weight.name)
            by_rows = not parts and attention.output is not None and attention.output.orientation == "out_in"
            yield StoredTensor(attention.layer, weight, info, itemsize, parts, by_rows)
