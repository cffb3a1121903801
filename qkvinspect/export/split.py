"""Q, K and V as tensors of their own, bit for bit as they are stored."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.errors import LayoutError
from qkvinspect.export.naming import DEFAULT, TORCH, Naming, naming
from qkvinspect.export.parts import StoredPart, source_of
from qkvinspect.export.pieces import OutputTensor, RowRun
from qkvinspect.export.repack import repack
from qkvinspect.export.row_runs import count, merged
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts import by_id
from qkvinspect.weights.strided import shape_as_matrix

_MAIN = ("q", "k", "v")


def split_pieces(report: Report, *, heads_split: bool = False, names: str = DEFAULT) -> list[OutputTensor]:
    """What ``export --split`` writes: ``<layer>.q_proj.weight`` and so on; with ``heads_split`` each head apart.

    Args:
        names: a preset or a template; see ``naming``.

    Raises:
        LayoutError: a layer cannot be split, or two tensors would have the same name.
        UsageError: ``names`` is neither.
    """
    pieces: dict[str, OutputTensor] = {}
    for attention in report.attentions:
        for piece in split_layer(attention, heads_split=heads_split, names=names):
            if piece.name in pieces:
                raise LayoutError("two layers would be written under this name", tensor=piece.name)
            pieces[piece.name] = piece
    return list(pieces.values())


def split_layer(
    attention: Attention, *, heads_split: bool = False, names: str = DEFAULT, everything: bool = False
) -> list[OutputTensor]:
    """The parts of one layer.

    Args:
        everything: also rows that are not Q, K or V (a gate, an MLP).

    Raises:
        LayoutError: it cannot be split.
    """
    source = source_of(attention)
    if heads_split and source.heads is None:
        raise LayoutError(
            f"layer {attention.layer!r} cannot be split into heads: their number is unknown",
            hint="give --heads N",
        )
    if names == TORCH and not heads_split:
        packed = repack(source, by_id("torch-mha-split"), attention.layer)
        return [*packed.weights, *packed.biases]
    return list(_apart(source, naming(names), heads_split=heads_split, everything=everything))


def _apart(source: StoredPart, name: Naming, *, heads_split: bool, everything: bool) -> Iterator[OutputTensor]:
    parts = [part for part in _MAIN if part in source.weights]
    if everything:
        parts += [part for part in source.weights if part not in _MAIN]
    for part in parts:
        for kind, held in (("weight", source.weights), ("bias", source.biases)):
            runs = held.get(part, ())
            if heads_split and runs:
                for head, run in enumerate(runs):
                    yield _piece(name(source.layer, part, f"heads.{head}.{kind}"), (run,), kind)
            elif runs:
                yield _piece(name(source.layer, part, kind), merged(runs), kind)


def _piece(name: str, runs: tuple[RowRun, ...], kind: str) -> OutputTensor:
    info, orientation = runs[0].info, runs[0].orientation
    assert info is not None
    rows = count(runs)
    shape = (rows,) if kind == "bias" else (rows, shape_as_matrix(info, orientation)[1])
    return OutputTensor(name, shape, info.dtype, runs)
