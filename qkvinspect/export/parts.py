"""All parts of a layer's tensors, Q, K, V and others: the rows of each, in the order of its heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.export.pieces import RowRun
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts import Layout
from qkvinspect.layouts.put_back import put_back, reordered
from qkvinspect.weights.weight import Weight

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


def source_of(attention: Attention, numbers_as: DType | None = None) -> StoredPart:
    """The parts of an attention module.

    Args:
        numbers_as: what the numbers of weights become that are stored as codes; None: such weights are refused.

    Raises:
        LayoutError: it cannot be split, or its rows mean nothing on their own.
    """
    if not attention.parts or attention.layout is None or attention.geometry is None:
        raise LayoutError(
            f"layer {attention.layer!r} cannot be split",
            expected="one layout and the heads it needs",
            found=attention.may_be,
            hint="see what `qkvinspect explain` says of it, or leave it out with --layer",
        )
    weights: dict[str, tuple[RowRun, ...]] = {}
    biases: dict[str, tuple[RowRun, ...]] = {}
    for part in (*attention.parts, *attention.others):
        weight = writable(part.weight, attention.layer, numbers_as)
        weights[part.name] = tuple(RowRun(rows, weight, part.orientation) for rows in part.heads)
        if part.bias is not None:
            bias = writable(part.bias, attention.layer, numbers_as)
            biases[part.name] = tuple(RowRun(rows, bias) for rows in part.bias_heads)
    heads = attention.heads
    return StoredPart(
        layer=attention.layer,
        layout=attention.layout,
        weights=weights,
        biases=biases,
        heads=(heads.num_heads, heads.num_kv_heads) if heads else None,
        no_bias=frozenset(attention.layout.no_bias),
        consumed=consumed(attention),
    )


RunsOfAHead = Mapping[tuple[str, str], int]


def reordered_parts(attention: Attention) -> tuple[str, ...]:
    """The parts whose rows llama.cpp's converter put in another order."""
    return () if attention.layout is None else reordered(attention.layout, attention.heads)


def as_before(source: StoredPart, attention: Attention) -> tuple[StoredPart, RunsOfAHead]:
    """The parts with rows that llama.cpp's converter put in another order in that of transformers.

    Returns:
        them, and of how many runs a head of each such part consists, by part and kind (weight or bias).

    Raises:
        LayoutError: the rows were put in another order, and the number of heads is unknown.
    """
    layout, heads = attention.layout, attention.heads
    parts = reordered_parts(attention)
    if layout is None or not parts:
        return source, {}
    if heads is None:
        raise LayoutError(
            f"the rows of layer {source.layer!r} cannot be put back: the number of heads is unknown",
            hint="give --heads N or N/KV",
        )
    runs_of_a_head: dict[tuple[str, str], int] = {}
    put: list[dict[str, tuple[RowRun, ...]]] = []
    for kind, held in (("weight", source.weights), ("bias", source.biases)):
        own = dict(held)
        for part in reordered(layout, heads, biases=kind == "bias"):
            if part in held:
                back = put_back(layout, heads, part, [run.rows for run in held[part]])
                runs_of_a_head[part, kind] = len(back[0])
                own[part] = tuple(replace(held[part][0], rows=rows) for head in back for rows in head)
        put.append(own)
    return replace(source, weights=put[0], biases=put[1]), runs_of_a_head


def consumed(attention: Attention) -> frozenset[str]:
    """Names of the stored tensors that hold the parts of a module."""
    return frozenset(info.name for weight in (*attention.weights, *attention.biases) for info in weight.stored)


def writable(weight: Weight, layer: str, numbers_as: DType | None) -> Weight:
    """A weight with the dtype that its numbers are written in.

    Raises:
        LayoutError: it has none, or none was chosen.
    """
    if weight.why:
        raise LayoutError(f"layer {layer!r} has no values: {weight.why}", hint="leave it out with --layer")
    if weight.encoding is None:
        return weight
    dtype = numbers_as or weight.encoding.computed_in
    if dtype is None:
        raise LayoutError(
            f"layer {layer!r} is stored as {weight.encoding.label}",
            tensor=weight.name,
            hint="--dequantize bfloat16 (or float32) writes its numbers; or leave it out with --layer",
        )
    return replace(weight, dtype=dtype)
