"""Rows that a converter put in another order, in the order that transformers has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.layouts.layout import Layout
from qkvinspect.layouts.packing import Geometry

Runs = tuple[range, ...]


def reordered(layout: Layout, heads: Geometry | None, *, biases: bool = False) -> tuple[str, ...]:
    """The parts whose rows a converter put in another order; which heads of V, only where their number is known.

    Args:
        biases: those of whose biases it did.
    """
    parts = () if biases and layout.biases_stay else (*layout.paired, *layout.by_fours)
    return (*parts, "v") if heads is not None and shared_apart(layout, heads) > 1 else parts


def shared_apart(layout: Layout, heads: Geometry) -> int:
    """How many heads of V each head of K has, if a converter put the first of every one before the second; else 1."""
    return heads.subheads.get("v", 1) if layout.rewritten_by and heads.subheads_apart else 1


def counted(layout: Layout, geometry: Geometry, part: str) -> int:
    """As how many heads a converter took the rows of a part that it permuted."""
    if part == "k" and layout.k_by_share and geometry.num_kv_heads != geometry.num_heads:
        return geometry.num_heads // geometry.num_kv_heads
    return geometry.heads(part)


def put_back(layout: Layout, geometry: Geometry, part: str, heads: Sequence[range]) -> tuple[Runs, ...]:
    """The rows of each head of a part, the heads in the order of transformers.

    Args:
        heads: the rows of each head as they are stored.
    """
    if part in layout.paired and (count := counted(layout, geometry, part)) != len(heads):
        return tuple(_otherwise_counted(heads, count))
    if part in layout.paired:
        return tuple((head[::2], head[1::2]) for head in heads)
    if part in layout.by_fours:
        return tuple(tuple(_fours(head)) for head in heads)
    count = shared_apart(layout, geometry) if part == "v" else 1
    return tuple((head,) for head in together(heads, count))


def _otherwise_counted(heads: Sequence[range], count: int) -> Iterator[Runs]:
    """The rows of each head, where as many rows as there are were taken for another number of heads."""
    rows = [row for head in heads for row in head]
    size = len(rows) // count
    before = [
        rows[start + turn + at] for start in range(0, len(rows), size) for turn in (0, 1) for at in range(0, size, 2)
    ]
    width = len(heads[0])
    for start in range(0, len(before), width):
        yield tuple(range(row, row + 1) for row in before[start : start + width])


def _fours(head: range) -> Iterator[range]:
    """Two rows of the first half of a head, two of its second half, and so on."""
    half = len(head) // 2
    for at in range(0, half, 2):
        yield from (head[at : at + 2], head[half + at : half + at + 2])


def together(heads: Sequence[range], count: int) -> Sequence[range]:
    """Heads of which ``count`` belong together, and lie as far apart as there are others."""
    many = len(heads) // count
    return [heads[first + i * many] for first in range(many) for i in range(count)]
