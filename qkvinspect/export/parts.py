"""Every part that the tensors of a layer hold, Q, K and V or not: the rows of each, in the order of its heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.export.pieces import RowRun
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.packing import split_rows
from qkvinspect.weights.strided import shape_as_matrix

Heads = tuple[int, int]
"""Heads and kv heads."""


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A layer as its parts.

    Attributes:
        weights, biases: for each part, the rows of its heads; joined they are the part as nn.Linear stores it.
        consumed: names of the stored tensors that hold them.
        heads: None where they are not known.
        no_bias: parts whose missing bias the library itself takes for zeros.
    """

    layer: str
    layout: Layout | None
    weights: Mapping[str, tuple[RowRun, ...]]
    biases: Mapping[str, tuple[RowRun, ...]]
    heads: Heads | None = None
    no_bias: frozenset[str] = frozenset()
    consumed: frozenset[str] = field(default_factory=frozenset[str])

    def rows(self, part: str) -> int:
        return sum(len(run.rows) for run in self.weights[part])


def source_of(attention: Attention) -> StoredPart:
    """The parts of an attention module.

    Raises:
        LayoutError: it cannot be split.
    """
    layout, sizes = attention.layout, attention.geometry
    if not attention.parts or layout is None or sizes is None:
        raise LayoutError(
            f"layer {attention.layer!r} cannot be split",
            expected="one layout and the heads it needs",
            found=" or ".join(attention.candidates),
            hint="see what `qkvinspect explain` says of it, or leave it out with --layer",
        )

    def split(
        held: Iterable[tuple[StoredWeight, TensorInfo]], *, bias: bool
    ) -> Iterator[tuple[str, tuple[RowRun, ...]]]:
        for stored, info in held:
            total = info.numel if bias else shape_as_matrix(info, stored.orientation)[0]
            orientation = "out_in" if bias else stored.orientation
            for part, ranges in split_rows(stored.packing, sizes, total).items():
                yield part, tuple(RowRun(rows, info, orientation) for rows in ranges)

    weights = list(zip(layout.weights, attention.weights, strict=True))
    by_part = {part.name: part.bias for part in attention.parts if part.bias is not None}
    biases = [
        (stored, info)
        for stored in layout.biases
        if (info := next((by_part[part] for part in "qkv" if part in stored.packing.parts and part in by_part), None))
    ]
    heads = attention.heads
    return StoredPart(
        layer=attention.layer,
        layout=layout,
        weights=dict(split(weights, bias=False)),
        biases=dict(split(biases, bias=True)),
        heads=(heads.num_heads, heads.num_kv_heads) if heads else None,
        no_bias=frozenset(layout.no_bias),
        consumed=frozenset(info.name for _, info in (*weights, *biases)),
    )
