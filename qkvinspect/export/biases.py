"""Biases of a layer in another layout. None is dropped unless it is zero, and none is made up unless requested."""

from __future__ import annotations

from itertools import chain

from qkvinspect.errors import LayoutError
from qkvinspect.export.naming import tensor_in
from qkvinspect.export.parts import StoredPart
from qkvinspect.export.pieces import OutputTensor, Packed, RowRun
from qkvinspect.export.row_runs import BOTH, arrange, count, is_zero, joined, one_dtype
from qkvinspect.layouts import Layout
from qkvinspect.layouts.packing import Geometry


def biases_in(
    source: StoredPart, target: Layout, layer: str, geometry: Geometry, zero_bias: bool
) -> tuple[list[OutputTensor], tuple[str, ...]]:
    """The biases as the layout stores them, and for which parts zeros were put in.

    Raises:
        LayoutError: the layout has no place for a bias that is not zero, or a bias is missing.
    """
    if not source.biases:
        return [], ()
    held = {part for stored in target.biases for part in stored.packing.order}
    held |= set(chain.from_iterable(BOTH[part] for part in held & BOTH.keys()))
    for part in sorted(source.biases.keys() - held):
        if not is_zero(joined(f"{source.layer}.{part}", source.biases[part])):
            raise LayoutError(
                f"{target.id} has no place for the bias of {part.upper()} in layer {source.layer!r}, which is not zero",
                hint="choose a layout that has one",
            )
    dtype = one_dtype(source, [run.weight for runs in source.biases.values() for run in runs if run.weight is not None])
    pieces: list[OutputTensor] = []
    zeros: list[str] = []
    for stored in target.biases:
        own = [BOTH.get(part, (part,))[0] for part in stored.packing.order]
        present = [part for part in own if part in source.biases]
        if not present:
            continue
        parts: dict[str, tuple[RowRun, ...]] = {}
        for part, one in zip(stored.packing.order, own, strict=True):
            if one in source.biases:
                parts[part] = source.biases[one]
                continue
            if not zero_bias and one not in source.no_bias:
                raise LayoutError(
                    f"layer {source.layer!r} has a bias for {', '.join(present).upper()} but none for {one.upper()}",
                    expected=f"all that {tensor_in(layer, stored.key)} holds",
                    hint="--zero-bias puts zeros there, which computes the same",
                )
            zeros.append(one)
            parts[part] = (RowRun(range(source.rows(one))),)
        runs = arrange(stored.packing, geometry, parts)
        packed = Packed(stored.packing, geometry)
        pieces.append(OutputTensor(tensor_in(layer, stored.key), (count(runs),), dtype, runs, parallel=packed))
    return pieces, tuple(zeros)
