"""Divide the tensors to write among tensor-parallel ranks, as Megatron-Core and vLLM load them.

A projection packed by heads is cut into equal runs of rows (Megatron-Core's ColumnParallelLinear, which does so even
where a rank gets less than a kv head). One in blocks is cut block by block, and where there are more ranks than kv
heads, neighbouring ranks get the same one (vLLM's QKVParallelLinear). The output projection is cut by its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.export.pieces import OutputTensor, Packed, RowRun
from qkvinspect.export.row_runs import count, merged
from qkvinspect.formats.ranks.file_names import Kind
from qkvinspect.formats.ranks.shares import PARTNERS, cut_of, named
from qkvinspect.layouts.packing import HEADED, QUERY_SIDE, split_rows
from qkvinspect.weights.weight import plain


@dataclass(frozen=True, slots=True)
class Ranks:
    """How many there are, and who will load them.

    Attributes:
        whole: globs of tensors that every rank gets whole, where their names do not tell.
    """

    count: int
    kind: Kind
    whole: tuple[str, ...] = ()


def shared_out(pieces: Sequence[OutputTensor], ranks: Ranks) -> list[tuple[OutputTensor, ...]]:
    """For each rank, its shares of all tensors.

    Raises:
        LayoutError: one cannot be shared out, or how is unknown.
    """
    known = {piece.name: piece for piece in pieces}
    attention_first = sorted(pieces, key=lambda piece: piece.parallel is None)  # what it cannot is said before others
    cut = {piece.name: list(_shares(piece, ranks, known)) for piece in attention_first}
    return [tuple(cut[piece.name][rank] for piece in pieces) for rank in range(ranks.count)]


def _shares(piece: OutputTensor, ranks: Ranks, known: Mapping[str, OutputTensor]) -> Iterator[OutputTensor]:
    each = range(ranks.count)
    match piece.parallel:
        case Packed():
            yield from (_rows(piece, _of_heads(piece, piece.parallel, rank, ranks.count)) for rank in each)
        case "inputs first" | "inputs last":
            axis = 0 if piece.parallel == "inputs first" else 1
            yield from (_along(piece, axis, rank, ranks.count) for rank in each)
        case "whole":
            yield from (piece for _ in each)
        case None:
            yield from _by_name(piece, ranks, known)


def _by_name(piece: OutputTensor, ranks: Ranks, known: Mapping[str, OutputTensor]) -> Iterator[OutputTensor]:
    each, dims = range(ranks.count), len(piece.shape)
    cut = cut_of(piece.name, ranks.kind, None)
    if cut == "whole" or not dims or any(fnmatchcase(piece.name, glob) for glob in ranks.whole):
        yield from (piece for _ in each)
        return
    leaf = named(piece.name).leaf
    if cut in ("unknown", "blocks of q, k, v", "copies of k, v") or leaf not in ("weight", "bias") or dims > 2:
        raise LayoutError(
            "how ranks share it is unknown",
            tensor=piece.name,
            expected="the name of a layer that Megatron or vLLM cuts, or leaves whole",
            hint="--whole GLOB gives it to every rank as it is; --rename gives it such a name",
        )
    if cut == "columns":
        yield from (_along(piece, 1, rank, ranks.count) for rank in each)
        return
    blocks = 2 if cut == "two blocks" and _is_gated(piece, known) else 1
    rows = piece.shape[0] // blocks
    _require(piece, rows, ranks.count, f"rows of {blocks} blocks" if blocks > 1 else "rows")
    own = rows // ranks.count
    for rank in each:
        starts = (block * rows + rank * own for block in range(blocks))
        yield _rows(piece, [range(start, start + own) for start in starts])


def _is_gated(piece: OutputTensor, known: Mapping[str, OutputTensor]) -> bool:
    """Whether the first layer of an MLP holds its gate too: it has twice the rows that the next one reads.

    Raises:
        LayoutError: there is no next one to compare with.
    """
    module = named(piece.name).module
    parent, _, own = module.rpartition(".")
    if own == "gate_up_proj":
        return True
    weight = known.get(f"{module}.weight", piece)
    reader = next((known[key] for name in PARTNERS["two blocks"] if (key := f"{parent}.{name}.weight") in known), None)
    if reader is None or len(reader.shape) < 2 or weight.shape[0] not in (reader.shape[1], 2 * reader.shape[1]):
        raise LayoutError("whether it holds a gate is unknown", tensor=piece.name, hint="--whole GLOB keeps it whole")
    return weight.shape[0] == 2 * reader.shape[1]


def _of_heads(piece: OutputTensor, packed: Packed, rank: int, ranks: int) -> list[range]:
    """The rows of a projection that a rank gets.

    Raises:
        LayoutError: its heads cannot be shared out.
    """
    packing, sizes = packed.packing, packed.geometry
    total = count(piece.runs)
    for heads, part in ((sizes.num_heads, "heads"), (sizes.num_kv_heads, "kv heads")):
        if heads % ranks and (part == "heads" or ranks % heads):
            raise LayoutError(
                f"{heads} {part} cannot be shared out over {ranks} ranks",
                tensor=piece.name,
                expected=f"a divisor of {heads}" if part == "heads" else f"a divisor or a multiple of {heads}",
                hint="give another --tp; --heads N says how many heads there are where nothing else does",
            )
    if packing.groups == "rows" or packing.heads_innermost:
        raise LayoutError("its heads alternate row by row, which no library shares out", tensor=piece.name)
    if packing.groups != "one" or packing.slot_innermost:
        if isinstance(packing.groups, int) and packing.groups % ranks:
            raise LayoutError(f"{packing.groups} groups cannot be shared out over {ranks} ranks", tensor=piece.name)
        _require(piece, total, ranks, "rows")
        return [range(total // ranks * rank, total // ranks * (rank + 1))]
    rows = split_rows(packing, sizes, total)
    found: list[range] = []
    for part in packing.order:
        if part not in HEADED:
            raise LayoutError(
                f"holds {part} beside its heads, which no library cuts",
                tensor=piece.name,
                hint="choose a layout whose projections hold heads only",
            )
        runs = rows[{"kv": "k", "qk": "q"}.get(part, part)]
        if len(runs) % ranks == 0:
            own = len(runs) // ranks
            found += runs[own * rank : own * (rank + 1)]
        elif part not in QUERY_SIDE and ranks % len(runs) == 0:
            found.append(runs[rank // (ranks // len(runs))])
        else:
            raise LayoutError(f"{len(runs)} heads of {part} cannot be shared out over {ranks} ranks", tensor=piece.name)
    return found


def _rows(piece: OutputTensor, wanted: Sequence[range]) -> OutputTensor:
    """Some rows of a tensor along its output axis, in the order given."""
    runs = piece.runs
    if piece.whole is not None:
        runs = (RowRun(range(piece.whole.shape[0]), plain(piece.whole)),)
    found: list[RowRun] = []
    for span in wanted:
        start = 0
        for run in runs:
            low, high = max(span.start - start, 0), min(span.stop - start, len(run.rows))
            if low < high:
                found.append(replace(run, rows=run.rows[low:high]))
            start += len(run.rows)
    size = sum(map(len, wanted))
    axis = 0 if piece.lying == "out_in" else 1
    if piece.lying == "in_heads_dim":
        raise LayoutError("a tensor of three axes is not cut", tensor=piece.name, hint="choose another layout")
    shape = tuple(size if place == axis else whole for place, whole in enumerate(piece.shape))
    return replace(piece, shape=shape, runs=merged(found), whole=None)


def _along(piece: OutputTensor, axis: int, rank: int, ranks: int) -> OutputTensor:
    """A rank's run of a tensor's inputs, which lie along ``axis``.

    Raises:
        LayoutError: they cannot be shared out.
    """
    if axis >= len(piece.shape):
        raise LayoutError("has no axis of inputs to be shared out", tensor=piece.name, found=f"shape {piece.shape}")
    _require(piece, piece.shape[axis], ranks, "inputs")
    own = piece.shape[axis] // ranks
    shape = tuple(own if place == axis else size for place, size in enumerate(piece.shape))
    if piece.whole is not None:
        return replace(piece, shape=shape, whole=_cut(piece.whole, axis, rank * own, own))
    runs: list[RowRun] = []
    for run in piece.runs:
        weight = run.weight
        if weight is None or weight.encoding is not None:
            raise LayoutError(
                "is stored as codes, which are not cut by their inputs",
                tensor=piece.name,
                hint="write it whole with --dequantize first, and convert that",
            )
        info = weight.require_info()
        runs.append(replace(run, weight=plain(_cut(info, 1 if run.orientation == "out_in" else 0, rank * own, own))))
    return replace(piece, shape=shape, runs=tuple(runs))


def _cut(info: TensorInfo, axis: int, start: int, size: int) -> TensorInfo:
    """Some of a tensor along one axis.

    Raises:
        LayoutError: a byte holds several of its numbers.
    """
    if info.dtype.bits % 8 or info.dtype.block > 1:
        raise LayoutError(f"{info.dtype.name} is not cut: a byte or block holds several", tensor=info.name)
    shape = tuple(size if place == axis else whole for place, whole in enumerate(info.shape))
    return replace(info, shape=shape, offset=info.offset + start * info.strides[axis])


def _require(piece: OutputTensor, size: int, ranks: int, what: str) -> None:
    if size % ranks or not size:
        raise LayoutError(
            f"{size} {what} cannot be shared out over {ranks} ranks",
            tensor=piece.name,
            expected=f"a multiple of {ranks}",
            hint="pad it first, give another --tp, or --whole GLOB gives it to every rank as it is",
        )
