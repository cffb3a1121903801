"""A layer that will be written is found again by inspection, before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.export.naming import tensor_in
from qkvinspect.export.parts import Source
from qkvinspect.export.pieces import Piece
from qkvinspect.inspection.heads import HeadFact
from qkvinspect.inspection.match import Candidate, Match
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.split import split, unsplit
from qkvinspect.layouts import Layout
from qkvinspect.matrix import shape_as_matrix
from qkvinspect.model import Region, TensorInfo, contiguous_strides
from qkvinspect.packing import Geometry, describe, merge, split_rows


def read_again(source: Source, target: Layout, layer: str, geometry: Geometry, weights: Sequence[Piece]) -> None:
    """Have inspection split the tensors that will be written: it must come to the very rows that were put there.

    Raises:
        LayoutError: it does not, so that nobody who reads the file could.
    """
    infos = [_planned(piece.name, piece.shape, piece.dtype) for piece in weights]
    known = list(infos)
    if target.out and "v" in source.weights:
        taken = source.heads[0] if source.heads else 1
        columns = taken * geometry.width("v")
        shape = (1, columns) if target.out_orientation == "out_in" else (columns, 1)
        known.append(_planned(tensor_in(layer, target.out[0]), shape, infos[0].dtype))
    names = Names({info.name: info for info in known})
    path = names.paths[infos[0].name][: -len(target.weights[0].key.replace("../", "").split("."))]
    candidate = Candidate(target, path, layer, tuple(infos))
    facts = [HeadFact("pack", *source.heads, head_dim=geometry.head_dim)] if source.heads else []
    reason = ""
    try:
        attention, findings = split(unsplit(Match((candidate,), "flag")), candidate, names, facts)
        reason = next((finding.message for finding in findings if finding.code.startswith("heads-")), "")
        found = {part.name: (part.weight.name, part.rows) for part in attention.parts}
    except LayoutError as error:
        reason, found = str(error), {}
    planned: dict[str, tuple[str, tuple[range, ...]]] = {}
    for stored, piece in zip(target.weights, weights, strict=True):
        total, _ = shape_as_matrix(_planned(piece.name, piece.shape, piece.dtype), stored.orientation)
        for part, rows in split_rows(stored.packing, geometry, total).items():
            if part in ("q", "k", "v"):
                planned[part] = (piece.name, merge(rows))
    if found != planned:
        raise LayoutError(
            f"layer {source.layer!r} cannot be stored as {target.id}",
            expected="sizes that the library allows",
            found=reason or describe(geometry),
            hint=f"`qkvinspect layouts {target.id}` shows what it holds",
        )


def _planned(name: str, shape: tuple[int, ...], dtype: DType) -> TensorInfo:
    return TensorInfo(name, dtype, shape, contiguous_strides(shape), _Unwritten(dtype.nbytes(prod(shape))))


class _Unwritten(Region):
    """The bytes of a tensor that is not there yet: never read."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
