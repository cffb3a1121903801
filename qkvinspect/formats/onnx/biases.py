"""Find what is added to a product: a bias of its own, or a piece of a vector that holds several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats.onnx.graph import Graph
from qkvinspect.formats.onnx.products import holds_codes, size_of
from qkvinspect.formats.onnx.shapes import slices
from qkvinspect.formats.onnx.sizes import Sizes

if TYPE_CHECKING:
    from qkvinspect.formats.onnx.names import Use, Uses

_RESCALED = frozenset({"Cast", "Mul"})
"""What stands between a product of integers and the bias that is added to it."""

_ROUNDED = frozenset({"DequantizeLinear", "QuantizeLinear"})
"""What stands between any product of a quantised model and its bias."""

_BIASES = {"Gemm": 2, "FusedGemm": 2, "MatMulNBits": 5}
"""Which input of a product is a bias, where it has one."""

_ADDS: Mapping[str, Sequence[int]] = {
    "Add": (0, 1),
    "BiasGelu": (1,),
    "FastGelu": (1,),
    "SkipLayerNormalization": (4,),
    "SkipSimplifiedLayerNormalization": (3,),
}
"""Which inputs are added to another, as a bias is: operators of onnxruntime do more with the sum."""

_MOST_RESCALED = 4

_KEPT = frozenset({"Identity", "Cast", "DequantizeLinear", "QuantizeLinear"})
"""Operators after which a piece is still that piece."""


class PieceOfVector(NamedTuple):
    """Some neighbouring entries of an initialiser of one axis."""

    stored: str
    start: int
    stop: int


def pieces_of_vectors(graph: Graph, sizes: Sizes) -> dict[str, PieceOfVector]:
    """The values that are cut of vectors by constants."""
    vectors = {name: one.sizes[0] for name, one in graph.initialisers.items() if len(one.sizes) == 1}
    whole = {name: PieceOfVector(name, 0, length) for name, length in vectors.items() if length > 1}
    found: dict[str, PieceOfVector] = {}
    for node in graph.nodes:
        given = found.get(node.input(0)) or whole.get(node.input(0))
        if given is None or not node.outputs:
            continue
        length = given.stop - given.start
        if node.op in _KEPT:
            (found if node.input(0) in found else whole)[node.outputs[0]] = given
        elif node.op == "Split":
            lengths = sizes.pieces(node, length)
            if lengths is None or sum(lengths) != length or min(lengths) < 0:
                continue
            start = given.start
            for name, size in zip(node.outputs, lengths, strict=True):
                found[name] = PieceOfVector(given.stored, start, start + size)
                start += size
        elif node.op == "Slice":
            cuts = slices(sizes, node, 1) or ()
            places = [range(given.start, given.stop)[start:stop:step] for _, start, stop, step in cuts]
            if len(places) == 1 and places[0].step == 1 and places[0]:
                found[node.outputs[0]] = PieceOfVector(given.stored, places[0].start, places[0].stop)
    return found


def piece_added(uses: Uses, use: Use, pieces: Mapping[str, PieceOfVector]) -> PieceOfVector | None:
    """The piece of a vector that is added to a product."""
    size = size_of(use.node, use.stored)
    if size is None or not pieces:
        return None
    found = [piece for name in _added(uses, use) if (piece := pieces.get(name)) and piece.stop - piece.start == size[0]]
    return found[0] if len(found) == 1 else None


def _added(uses: Uses, use: Use) -> Iterator[str]:
    """The values that are added to a product."""
    node = use.node
    if node.op in _BIASES and node.input(_BIASES[node.op]):
        yield node.input(_BIASES[node.op])
        return
    given = [*node.outputs[:1]]
    for _ in range(_MOST_RESCALED):
        readers = [one for name in given for one in uses.readers.get(name, ())]
        for reader in readers:
            places = [reader.input(slot) for slot in _ADDS.get(reader.op, ())]
            yield from (name for name in places if name and name not in given)
        given = [name for one in readers if one.op in _KEPT or one.op in _RESCALED for name in one.outputs[:1]]


def bias_of(uses: Uses, use: Use) -> Use | None:
    """The bias that is added to a product: a vector with an entry for each of its columns."""
    size = size_of(use.node, use.stored)
    if size is None or not use.node.outputs:
        return None
    width = size[:1]
    own = uses.at(use.node, _BIASES[use.node.op]) if use.node.op in _BIASES else None
    if own is not None or use.node.op in ("Gemm", "FusedGemm"):
        return own if own and own.stored.sizes == width else None
    given = use.node.outputs[0]
    for _ in range(_MOST_RESCALED):
        readers = uses.readers.get(given, [])
        for node in readers:
            places = [uses.at(node, slot) for slot in _ADDS.get(node.op, ())]
            added = [one for one in places if one is not None and one.stored.sizes == width]
            if len(added) == 1:
                return added[0]
        passed = _ROUNDED | _RESCALED if holds_codes(use.node) else _ROUNDED
        onward = [node for node in readers if node.op in passed and node.outputs]
        if len(onward) != 1:
            break
        given = onward[0].outputs[0]
    return None
