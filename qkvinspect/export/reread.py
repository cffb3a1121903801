"""Verify, before anything is written, that inspection would find the written layer again."""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape
from math import prod

from qkvinspect.checkpoint import Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.export.naming import tensor_in
from qkvinspect.export.parts import StoredPart
from qkvinspect.export.pieces import OutputTensor
from qkvinspect.findings import HEADS_IN_DOUBT
from qkvinspect.inspection.candidates import Candidate, DecidedBy, Match
from qkvinspect.inspection.facts.fact import HeadFact, SaidBy
from qkvinspect.inspection.match import Asked, find_attentions
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.split import split, unsplit
from qkvinspect.layouts import LAYOUTS, Layout
from qkvinspect.layouts.packing import Geometry, describe, merge, split_rows
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.weight import Weight, plain


def read_again(
    source: StoredPart, target: Layout, layer: str, geometry: Geometry, weights: Sequence[OutputTensor]
) -> None:
    """Have inspection split the tensors that will be written: it must come to the very rows that were put there.

    Raises:
        LayoutError: it does not, so that nobody who reads the file could.
    """
    infos = [planned(piece.name, piece.shape, piece.dtype) for piece in weights]
    known = list(infos)
    if target.out and "v" in source.weights:
        taken = source.heads[0] if source.heads else 1
        columns = taken * geometry.width("v")
        shape = (1, columns) if target.out_orientation == "out_in" else (columns, 1)
        known.append(planned(tensor_in(layer, target.out[0]), shape, infos[0].dtype))
    names = Names(_planned_weights(known))
    path = names.paths[infos[0].name][: -len(target.weights[0].key.replace("../", "").split("."))]
    candidate = Candidate(target, path, layer, tuple(infos))
    word = (
        HeadFact("pack", *source.heads, head_dim=geometry.head_dim, said_by=SaidBy.CHECKPOINT) if source.heads else None
    )
    facts = [word] if word is not None else []
    reason = ""
    try:
        attention, findings = split(unsplit(Match((candidate,), DecidedBy.FLAG)), candidate, names, facts)
        reason = next((finding.message for finding in findings if finding.code in HEADS_IN_DOUBT), "")
        found = {part.name: (part.weight.name, part.heads if source.heads else part.rows) for part in attention.parts}
    except LayoutError as error:
        reason, found = str(error), {}
    intended: dict[str, tuple[str, tuple[range, ...]]] = {}
    for stored, info in zip(target.weights, infos, strict=True):
        total, _ = info.as_shape(stored.orientation)
        for part, rows in split_rows(stored.packing, geometry, total).items():
            if part in ("q", "k", "v"):
                intended[part] = (info.name, rows if source.heads else merge(rows))
    if found != intended:
        raise LayoutError(
            f"layer {source.layer!r} cannot be stored as {target.id}",
            expected="sizes that the library allows",
            found=reason or describe(geometry),
            hint=f"`qkvinspect layouts {target.id}` shows what it holds",
        )


def require_known(pieces: Sequence[OutputTensor], target: Layout, layers: Sequence[str]) -> None:
    """Have inspection find the layers among all tensors that will be written, as what they shall be.

    Raises:
        LayoutError: what lies beside them, or does not, speaks against it.
    """
    names = Names(_planned_weights([planned(piece.name, piece.shape, piece.dtype) for piece in pieces]))
    reason: object = None
    try:
        forced = [(escape(layer), target.id) for layer in layers]
        found = {match.layer for match in find_attentions(names, LAYOUTS, (), Asked(forced)).matches}
    except LayoutError as error:
        reason, found = error.expected, set[str]()
    for layer in layers:
        if layer not in found:
            raise LayoutError(
                f"layer {layer!r} would not be known as {target.id}",
                expected="the tensors that this library keeps beside them, and no others",
                found=f"what may be {reason}" if reason else None,
                hint=f"`qkvinspect layouts {target.id}` shows them",
            )


def planned(name: str, shape: tuple[int, ...], dtype: DType) -> Weight:
    """A weight that will be written."""
    return plain(TensorInfo(name, dtype, shape, contiguous_strides(shape), _Unwritten(dtype.nbytes(prod(shape)))))


def _planned_weights(weights: Sequence[Weight]) -> Weights:
    return Weights({weight.name: weight for weight in weights}, {}, tuple(weight.name for weight in weights))


class _Unwritten(Region):
    """The bytes of a tensor that is not there yet: never read."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
