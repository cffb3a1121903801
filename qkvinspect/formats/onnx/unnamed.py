"""Names for the weights of attention for which nothing in a graph says what their module called them.

Quantisers and optimisers drop what torch's exporter wrote of modules, and a part of a weight has no name of its own.
That they are Q, K and V follows from the graph all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.formats.onnx.biases import PieceOfVector, bias_of, piece_added
from qkvinspect.formats.onnx.flow import Flow
from qkvinspect.formats.onnx.names import Named, Use, Uses
from qkvinspect.formats.onnx.products import PRODUCTS

_MOST = 1 << 12
"""Attention modules whose weights are named."""

_PACKED_BIAS = "in_proj_bias"
"""What nn.MultiheadAttention calls the biases of Q, K and V, one behind the other, where their weights are apart."""


def attention_names(
    flow: Flow, uses: Uses, names: Mapping[str, Named], pieces: Mapping[str, PieceOfVector]
) -> Iterator[Named]:
    """Each such weight by its name in the file, behind the path of its module, or the number of its attention.

    Args:
        pieces: values that are cut of vectors, as biases may be.
    """
    known = {one.stored for one in names.values()}
    products = {use.stored.name: use for use in uses.all if use.slot == PRODUCTS.get(use.node.op)}
    for number, one in zip(range(_MOST), dict.fromkeys(flow.met), strict=False):
        taken = [products.get(view.weight) for view in (one.q, one.k, one.v)]
        cut = [None if use is None else piece_added(uses, use, pieces) for use in taken]
        home = _multihead(taken, cut, names)
        for part, view, use, piece in zip("qkv", (one.q, one.k, one.v), taken, cut, strict=True):
            if view.weight in known:
                continue
            if use is None:  # cut before its product
                known.add(view.weight)
                name = f"attention.{number}.{view.weight.replace('.', '_')}.weight"
                yield Named(name, view.weight, view.weight in flow.projections.in_out)
                continue
            known.add(use.stored.name)
            if home is not None:
                yield Named(f"{home}{part}_proj_weight", use.stored.name, use.turned)
                continue
            place = use.node.scope or f"attention.{number}"
            name = f"{place}.{use.stored.name.replace('.', '_')}"
            yield Named(f"{name}.weight", use.stored.name, use.turned)
            bias = bias_of(uses, use)
            if bias is not None and (bias.stored.name not in known or "." not in bias.label):
                yield Named(f"{name}.bias", bias.stored.name)
            elif piece is not None:
                yield Named(f"{name}.bias", piece.stored, part=(piece.start, piece.stop))


def cut_biases(uses: Uses, names: Mapping[str, Named], pieces: Mapping[str, PieceOfVector]) -> Iterator[Named]:
    """The biases of products whose weights have names, where they are pieces of a vector."""
    if not pieces:
        return
    by_stored = {named.stored: name for name, named in names.items() if named.part is None}
    for use in uses.all:
        name = by_stored.get(use.stored.name, "")
        if use.slot == PRODUCTS.get(use.node.op) and name.endswith(".weight"):
            piece = piece_added(uses, use, pieces)
            if piece is not None and f"{name[:-6]}bias" not in names:
                yield Named(f"{name[:-6]}bias", piece.stored, part=(piece.start, piece.stop))


def _multihead(
    taken: Sequence[Use | None], cut: Sequence[PieceOfVector | None], names: Mapping[str, Named]
) -> str | None:
    """The path of the nn.MultiheadAttention that three matrices are of: thirds of its biases are added to them."""
    pieces = [piece for piece in cut if piece is not None]
    if len({use.stored.name for use in taken if use is not None}) != 3 or len(pieces) != 3:
        return None
    width, stored = pieces[0].stop, pieces[0].stored
    if pieces != [PieceOfVector(stored, place * width, (place + 1) * width) for place in range(3)]:
        return None
    homes = [name for name, named in names.items() if named.stored == stored and name.endswith(_PACKED_BIAS)]
    return homes[0].removesuffix(_PACKED_BIAS) if len(homes) == 1 else None
