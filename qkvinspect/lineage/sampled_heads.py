"""What is read of a layer's heads: the rows of Q, K and V and the columns of the output, at a few residual units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkvinspect.analysis.weights import no_values, unusable
from qkvinspect.checkpoint import Orientation
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Attention
from qkvinspect.lineage.units import Units
from qkvinspect.weights.reading import Array
from qkvinspect.weights.values import columns, value_tiles
from qkvinspect.weights.weight import Weight


@dataclass(frozen=True, slots=True)
class SampledHeads:
    """The thin factors of a layer's circuits, each [heads, width of a head, units], float64, the basis first.

    Attributes:
        q: one a head.
        k, v: one a head as well: heads that share one of K and V each have a view of it.
        o: the output projection by its inputs.
        kv_heads: how many heads of K and V there are.
    """

    q: Array
    k: Array
    v: Array
    o: Array
    kv_heads: int

    @property
    def unusable(self) -> str:
        """Why nothing can be computed with its numbers; "" where something can."""
        return next((f"it {why}" for side in (self.q, self.k, self.v, self.o) if (why := unusable(side))), "")

    def kv_head(self, head: int) -> int:
        """The head of K and V that a head uses."""
        return head * self.kv_heads // len(self.q)


def residual_width(attention: Attention) -> int:
    """Of the stream that a layer reads and writes, of which ``cannot_compare`` says nothing."""
    return attention.parts[0].in_features


def cannot_compare(attention: Attention) -> str:
    """Why the heads of a layer are left out; "" where they are not."""
    geometry, parts = attention.heads, [attention.part(name) for name in "qkv"]
    if geometry is None:
        return "the number of heads is not known"
    if any(part is None for part in parts):
        return "Q, K and V are not all stored"
    if geometry.subheads or geometry.width("q") != geometry.width("k"):
        return "its heads are divided further than into Q, K and V"
    if attention.output is None:
        return "the output projection is not known"
    for weight in (*attention.weights, attention.output.weight):
        if why := no_values(weight):
            return why
    widths = {part.in_features for part in parts if part is not None}
    rows, cols = attention.output.weight.as_shape(attention.output.orientation)
    if cols != geometry.num_heads * geometry.width("v"):
        return "the output projection does not take the heads side by side"
    if widths != {rows}:
        return "it does not read and write the same stream"
    return ""


def sampled(attention: Attention, units: Units) -> SampledHeads:
    """Read a layer, of which ``cannot_compare`` says nothing, at some units.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    geometry = attention.heads
    assert geometry is not None
    found = [_part(attention, name, units.numbers) for name in "qkv"]
    shared = [geometry.kv_head(head) for head in range(geometry.num_heads)]
    q, k, v = (rows.reshape(geometry.heads(name), -1, rows.shape[1]) for name, rows in zip("qkv", found, strict=True))
    output = attention.output
    assert output is not None
    across = _down(output.weight, output.orientation, units.numbers).T
    o = across.reshape(geometry.num_heads, -1, across.shape[1])
    return SampledHeads(q, k[shared], v[shared], o, geometry.num_kv_heads)


def _part(attention: Attention, name: str, units: Sequence[int]) -> Array:
    """Rows of all heads at the units, [heads * width, units]."""
    part = attention.part(name)
    assert part is not None
    return np.concatenate([_across(part.weight, part.orientation, run, units) for run in part.rows])


def _across(weight: Weight, orientation: Orientation, rows: range, units: Sequence[int]) -> Array:
    """Some columns of some rows; a few rows are in memory at a time."""
    matrix = weight.as_matrix(orientation).take(rows)
    out = np.zeros((matrix.rows, len(units)))
    wanted = np.asarray(units)
    for tile in value_tiles(matrix):
        start, stop = tile.cols.start, tile.cols.stop
        here = np.flatnonzero((wanted >= start) & (wanted < stop))
        with np.errstate(invalid="ignore"):  # signalling NaN
            out[tile.rows, here] = tile.some(slice(None), wanted[here] - start)
    return out


def _down(weight: Weight, orientation: Orientation, units: Sequence[int]) -> Array:
    """Some rows, whole."""
    matrix = weight.as_matrix(orientation)
    out = np.zeros((len(units), columns(matrix)))
    place = {unit: at for at, unit in enumerate(units)}
    for tile in value_tiles(matrix):
        wanted = [row for row in range(tile.rows.start, tile.rows.stop) if row in place]
        if wanted:
            some = np.asarray(wanted) - tile.rows.start
            with np.errstate(invalid="ignore"):  # signalling NaN
                out[[place[row] for row in wanted], tile.cols] = tile.some(some, slice(None))
    return out
