"""The stored tensors of an attention module that are weighed, and which of their rows belong to which head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from qkvinspect.inspection.evidence.sampled_rows import Bias, LayerWeights, Lying
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import merge
from qkvinspect.weights.reading import Array


def source_of(attention: Attention) -> LayerWeights | None:
    """The tensors of a module whose parts are known; None where a part shares its rows with another."""
    layout = attention.layout
    if layout is None or not attention.parts:
        return None
    out = (attention.out, layout.out_orientation) if attention.out is not None else None
    if out is not None and len(out[0].shape) < 2:
        out = None
    weights: tuple[Lying, ...] = tuple(
        (info, stored.orientation, tuple(_biases(attention, info.name)))
        for stored, info in zip(layout.weights, attention.weights, strict=True)
    )
    return LayerWeights(attention.layer, weights, out)


def _biases(attention: Attention, name: str) -> list[Bias]:
    return [
        Bias(part.bias, *_joined(part.heads, part.bias_heads))
        for part in attention.parts
        if part.bias is not None and part.weight.name == name
    ]


def _joined(rows: Sequence[range], entries: Sequence[range]) -> tuple[tuple[range, ...], tuple[range, ...]]:
    """Runs of both that belong together, neighbours joined where they are neighbours in both."""
    joined = merge(rows), merge(entries)
    alike = [len(run) for run in joined[0]] == [len(run) for run in joined[1]]
    return joined if alike else (tuple(rows), tuple(entries))


def index_of(attention: Attention, stride: int) -> dict[str, Array] | None:
    """The sampled rows of every head of every part, as numbers among all sampled rows of the layer.

    Returns:
        int [heads, rows of a head] for ``q``, ``k``, ``v`` and ``o`` (columns of the output projection, from its
        first); None where the heads do not keep their form when one row in ``stride`` is taken, or have heads
        within heads.
    """
    if attention.geometry is None or attention.geometry.subheads:
        return None
    starts = _starts(attention)
    index: dict[str, Array] = {}
    for part in attention.parts:
        rows = _sampled(tuple(part.heads), stride)
        if rows is None:
            return None
        index[part.name] = rows + starts[part.weight.name] // stride
    out = attention.out
    if out is not None and len(out.shape) > 1 and "v" in index:
        assert attention.layout is not None
        heads, width = attention.geometry.num_heads, int(index["v"].shape[1])
        if out.as_shape(attention.layout.out_orientation)[1] == heads * width * stride:
            index["o"] = np.arange(heads * width).reshape(heads, width)
    return index


def tiled(index: Mapping[str, Array]) -> dict[str, Array] | None:
    """The same heads in an order in which those that share a kv head lie side by side, where they are tiled.

    Then head h uses kv head h % kv heads: x-transformers repeats all kv heads one after the other. None where each has
    a kv head of its own, or all have one.
    """
    kv_heads = min(map(len, index.values()))
    if kv_heads == 1 or all(len(rows) == kv_heads for rows in index.values()):
        return None
    return {
        part: rows.reshape(-1, kv_heads, rows.shape[1]).swapaxes(0, 1).reshape(rows.shape)
        for part, rows in index.items()
    }


def _starts(attention: Attention) -> dict[str, int]:
    assert attention.layout is not None
    totals = [
        weight.as_shape(stored.orientation)[0]
        for stored, weight in zip(attention.layout.weights, attention.weights, strict=True)
    ]
    names = [weight.name for weight in attention.weights]
    return dict(zip(names, accumulate(totals, initial=0), strict=False))


@lru_cache(256)
def _sampled(heads: tuple[range, ...], stride: int) -> Array | None:
    """The rows that a stride leaves of each head: many packings and questions share them."""
    first = heads[0]
    rows = np.array([run.start for run in heads])[:, None] + np.arange(0, len(first) * first.step, first.step)
    if stride == 1:
        return rows
    kept = rows[:, ::stride]
    whole = rows.shape[1] % stride == 0 and kept.shape[1] >= 2 and not (kept % stride).any()
    return kept // stride if whole else None
