"""Store the parts of a layer as a layout does: the inverse of the packing formula, checked by reading it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from qkvinspect.checkpoint import Orientation
from qkvinspect.errors import LayoutError
from qkvinspect.export.biases import biases_in
from qkvinspect.export.naming import tensor_in
from qkvinspect.export.parts import StoredPart
from qkvinspect.export.pieces import OutputTensor, Packed, RowRun, contents, spans
from qkvinspect.export.reread import read_again
from qkvinspect.export.row_runs import BOTH, arrange, count, joined, one_dtype, same_bytes, weight_of
from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.packing import HEADED, Geometry
from qkvinspect.weights.weight import Weight


@dataclass(frozen=True, slots=True)
class Repacked:
    """A layer in another layout.

    Attributes:
        zeros: parts whose bias was made of zeros.
        geometry: the sizes that it has there.
    """

    weights: tuple[OutputTensor, ...]
    biases: tuple[OutputTensor, ...]
    zeros: tuple[str, ...]
    geometry: Geometry


def repack(source: StoredPart, target: Layout, layer: str, *, zero_bias: bool = False) -> Repacked:
    """The tensors of a layer as ``target`` stores them, under the name ``layer``.

    Args:
        zero_bias: whether a part without a bias may get one of zeros where the others have one.

    Raises:
        LayoutError: the layout cannot hold it, or more must be known.
    """
    wanted = [part for stored in target.weights for part in stored.packing.order]
    alone = set(chain.from_iterable(BOTH.get(part, (part,)) for part in wanted))
    if alone != set(source.weights):
        missing, spare = sorted(alone - source.weights.keys()), sorted(source.weights.keys() - alone)
        raise LayoutError(
            f"layer {source.layer!r} cannot be stored as {target.id}",
            expected=f"the parts {', '.join(sorted(alone))}",
            found=f"none of {', '.join(missing)}" if missing else f"also {', '.join(spare)}",
            hint="choose a layout that holds the same parts (`qkvinspect layouts ID` shows them)",
        )
    weights = dict(source.weights) | {both: _same(source, both) for both in wanted if both in BOTH}
    geometry = _geometry(source, target, {part: count(runs) for part, runs in weights.items()})
    out: list[OutputTensor] = []
    for stored in target.weights:
        parts = {part: weights[part] for part in stored.packing.order}
        runs = arrange(stored.packing, geometry, parts)
        first = weight_of(runs)
        width = _width(source, stored, runs)
        out.append(
            OutputTensor(
                tensor_in(layer, stored.key),
                _shape(target, stored, geometry, (count(runs), width)),
                first.dtype,
                runs,
                stored.orientation,
                parallel=Packed(stored.packing, geometry),
            )
        )
    biases, zeros = biases_in(source, target, layer, geometry, zero_bias)
    read_again(source, target, layer, geometry, out)
    return Repacked(tuple(out), tuple(biases), zeros, geometry)


def _same(source: StoredPart, both: str) -> tuple[RowRun, ...]:
    """The rows that stand for two parts at once.

    Raises:
        LayoutError: the parts differ.
    """
    one, other = (source.weights[part] for part in BOTH[both])
    if one != other:
        pieces = [joined(f"{source.layer}.{both}", runs) for runs in (one, other)]
        read = [contents(spans(piece)) for piece in pieces]
        if pieces[0].shape != pieces[1].shape or not same_bytes(*read):
            raise LayoutError(
                f"the {' and '.join(BOTH[both]).upper()} of layer {source.layer!r} differ, and must be one here"
            )
    return one


def _geometry(source: StoredPart, target: Layout, rows: Mapping[str, int]) -> Geometry:
    """The sizes that the layout's formula needs.

    Raises:
        LayoutError: the number of heads is needed and not known, or does not fit.
    """
    if source.heads is None:
        if any(stored.packing.groups != "one" or stored.orientation == "in_heads_dim" for stored in target.weights):
            raise LayoutError(
                f"layer {source.layer!r} cannot be stored as {target.id}: the number of its heads is unknown",
                hint="give --heads N or N/KV",
            )
        return Geometry(1, 1, rows.get("q", 1), widths=dict(rows))
    heads, kv_heads = source.heads
    bare = Geometry(heads, kv_heads, 1, subheads=dict(target.subheads))
    widths: dict[str, int] = {}
    for part in rows.keys() & HEADED:
        widths[part], left = divmod(rows[part], bare.heads(part))
        if left:
            raise LayoutError(
                f"the {rows[part]} rows of {part.upper()} in layer {source.layer!r} cannot be shared out",
                expected=f"a multiple of {bare.heads(part)}",
                hint="give --heads N/KV that fit",
            )
    own = {"q", "k", "v"} & rows.keys()
    width = widths["q" if "q" in own else "k"]
    return Geometry(heads, kv_heads, width, widths=widths, subheads=dict(target.subheads))


def _width(source: StoredPart, stored: StoredWeight, runs: Sequence[RowRun]) -> int:
    """The input features of the rows that go into one tensor.

    Raises:
        LayoutError: they differ, or their dtypes do.
    """
    held: dict[str, tuple[Weight, Orientation]] = {
        run.weight.name: (run.weight, run.orientation) for run in runs if run.weight is not None
    }
    widths = {name: weight.as_shape(orientation)[1] for name, (weight, orientation) in held.items()}
    if len(set(widths.values())) > 1:
        raise LayoutError(
            f"Q, K and V of layer {source.layer!r} do not fit into one {stored.key}",
            expected="as many columns in each",
            found=", ".join(f"{name} [., {width}]" for name, width in widths.items()),
            hint="torch-mha-split holds K and V of other widths",
        )
    one_dtype(source, [weight for weight, _ in held.values()])
    return next(iter(widths.values()))


def _shape(target: Layout, stored: StoredWeight, geometry: Geometry, size: tuple[int, int]) -> tuple[int, ...]:
    rows, cols = size
    match stored.orientation:
        case "out_in":
            return (rows, cols, *(1,) * ((target.ndim or 2) - 2))
        case "in_out":
            return cols, rows
        case "in_heads_dim":
            (part,) = stored.packing.order
            return cols, geometry.heads(part), geometry.width(part)
