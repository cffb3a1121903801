"""Q, K and V as tensors of their own, bit for bit as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from qkvinspect.checkpoint import Orientation, TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.export.naming import DEFAULT, TORCH, Naming, naming
from qkvinspect.export.parts import RunsOfAHead, StoredPart, as_before, reordered_parts, source_of
from qkvinspect.export.pieces import OutputTensor, RowRun, unchanged
from qkvinspect.export.repack import repack
from qkvinspect.export.row_runs import count, merged, weight_of
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts import by_id
from qkvinspect.weights.weight import StoredRows, Weight, plain

_MAIN = ("q", "k", "v")

_OF_THE_INPUT = ("input_scale", "input_global_scale", "input_zero_point", "activation_scale")
"""How a loader rounds what goes into a module: ModelOpt, compressed-tensors and transformers' fp8."""
_NONE: RunsOfAHead = {}
_NOTHING: Mapping[str, TensorInfo] = {}


def split_pieces(
    report: Report,
    *,
    heads_split: bool = False,
    names: str = DEFAULT,
    numbers_as: DType | None = None,
    undo_permute: bool = False,
) -> list[OutputTensor]:
    """What ``export --split`` writes: ``<layer>.q_proj.weight`` and so on; with ``heads_split`` each head apart.

    Args:
        names: a preset or a template; see ``naming``.
        numbers_as: what weights that are stored as codes become; None: their codes and scales are cut as they are.
        undo_permute: put the rows that llama.cpp's converter permuted back in the order of transformers.

    Raises:
        LayoutError: a layer cannot be split, or two tensors would have the same name.
        UsageError: ``names`` is neither.
    """
    pieces: dict[str, OutputTensor] = {}
    for attention in report.attentions:
        for piece in split_layer(
            attention,
            heads_split=heads_split,
            names=names,
            numbers_as=numbers_as,
            undo_permute=undo_permute,
            beside=report.checkpoint.tensors,
        ):
            if piece.name in pieces:
                raise LayoutError("two layers would be written under this name", tensor=piece.name)
            pieces[piece.name] = piece
    return list(pieces.values())


def split_layer(
    attention: Attention,
    *,
    heads_split: bool = False,
    names: str = DEFAULT,
    everything: bool = False,
    numbers_as: DType | None = None,
    undo_permute: bool = False,
    beside: Mapping[str, TensorInfo] = _NOTHING,
) -> list[OutputTensor]:
    """The parts of one layer.

    Args:
        beside: the tensors of the checkpoint, where scales of the input go with codes.
        everything: also rows that are not Q, K or V (a gate, an MLP).
        undo_permute: as of ``split_pieces``.

    Raises:
        LayoutError: it cannot be split.
    """
    if heads_split and attention.parts and attention.heads is None:
        raise LayoutError(
            f"layer {attention.layer!r} cannot be split into heads: their number is unknown",
            hint="give --heads N",
        )
    if numbers_as is None and any(map(in_codes, attention.weights)) and names != TORCH:
        if undo_permute and reordered_parts(attention):
            raise LayoutError(
                f"layer {attention.layer!r} is stored as codes", hint="--dequantize float32 writes its numbers"
            )
        return list(_codes_apart(attention, naming(names), beside, heads_split=heads_split))
    source, runs_of_a_head = source_of(attention, numbers_as), _NONE
    if undo_permute:
        if everything and "v" in reordered_parts(attention):
            raise LayoutError(
                f"the heads of V of layer {attention.layer!r} would lie in another order than its other tensors",
                hint="leave --all out",
            )
        source, runs_of_a_head = as_before(source, attention)
    if names == TORCH and not heads_split:
        packed = repack(source, by_id("torch-mha-split"), attention.layer)
        return [*packed.weights, *packed.biases]
    return list(_apart(source, naming(names), runs_of_a_head if heads_split else None, everything=everything))


def _apart(
    source: StoredPart, name: Naming, runs_of_a_head: RunsOfAHead | None, *, everything: bool
) -> Iterator[OutputTensor]:
    """Each part, or each of its heads.

    Args:
        runs_of_a_head: of parts of which a head is several runs; None where heads stay together.
    """
    parts = [part for part in _MAIN if part in source.weights]
    if everything:
        parts += [part for part in source.weights if part not in _MAIN]
    for part in parts:
        for kind, held in (("weight", source.weights), ("bias", source.biases)):
            runs = held.get(part, ())
            if runs_of_a_head is not None and runs:
                size = runs_of_a_head.get((part, kind), 1)
                for head, start in enumerate(range(0, len(runs), size)):
                    own = runs[start : start + size]
                    yield _piece(name(source.layer, part, f"heads.{head}.{kind}"), merged(own), kind)
            elif runs:
                yield _piece(name(source.layer, part, kind), merged(runs), kind)


def _piece(name: str, runs: tuple[RowRun, ...], kind: str) -> OutputTensor:
    weight, rows = weight_of(runs), count(runs)
    shape = (rows,) if kind == "bias" else (rows, weight.as_shape(runs[0].orientation)[1])
    return OutputTensor(name, shape, weight.dtype, runs)


def in_codes(weight: Weight) -> bool:
    """Whether its rows are codes, which mean nothing without the scales that go with them."""
    return weight.encoding is not None and weight.encoding.computed_in is None and not weight.why


def scales_of_inputs(weight: Weight, tensors: Mapping[str, TensorInfo]) -> Iterator[TensorInfo]:
    """What lies beside a weight of codes and is of the module's input: parts of a fused weight share it."""
    module = weight.name.removesuffix("weight")
    held = {info.name for info in weight.stored}
    if in_codes(weight):
        yield from (tensors[name] for leaf in _OF_THE_INPUT if (name := module + leaf) in tensors and name not in held)


def _codes_apart(
    attention: Attention, name: Naming, beside: Mapping[str, TensorInfo], *, heads_split: bool
) -> Iterator[OutputTensor]:
    """The rows of each part as they are stored, with the scales that belong to them and those of the input."""
    for part in attention.parts:
        encoding = part.weight.encoding
        if encoding is None or part.orientation != "out_in":
            raise LayoutError(
                f"layer {attention.layer!r} is stored in several ways",
                tensor=part.weight.name,
                hint="--dequantize bfloat16 writes the numbers of all",
            )
        shares = [(f"heads.{head}.", (rows,)) for head, rows in enumerate(part.heads)]
        for before, runs in shares if heads_split else [("", part.rows)]:
            for stored in encoding.cut(runs):
                yield _stored_rows(name(attention.layer, part.name, f"{before}{stored.leaf}"), stored)
            for info in scales_of_inputs(part.weight, beside):
                yield unchanged(info, name(attention.layer, part.name, f"{before}{info.name.rpartition('.')[2]}"))
        if part.bias is not None:
            biases = [(f"heads.{head}.", (rows,)) for head, rows in enumerate(part.bias_heads)]
            for before, runs in biases if heads_split else [("", part.bias_heads)]:
                held = merged(RowRun(rows, part.bias) for rows in runs)
                yield _piece(name(attention.layer, part.name, f"{before}bias"), held, "bias")


def _stored_rows(name: str, stored: StoredRows) -> OutputTensor:
    info = stored.info
    if stored.made is not None:
        return OutputTensor(name, (len(stored.made) * 8 // info.dtype.bits,), info.dtype, made=stored.made)
    if not stored.runs:
        return unchanged(info, name)
    lying: Orientation = "in_out" if stored.axis else "out_in"
    weight = plain(info)
    runs = merged(RowRun(rows, weight, lying) for rows in stored.runs)
    shape = (*info.shape[: stored.axis], count(runs), *info.shape[stored.axis + 1 :])
    return OutputTensor(name, shape, info.dtype, runs, lying)
