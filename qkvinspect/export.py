"""Write Q, K and V as tensors of their own, bit for bit as they are stored."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from qkvinspect import __version__
from qkvinspect.atomic import new_file
from qkvinspect.blocks import read_rows
from qkvinspect.copying import copy_rows
from qkvinspect.errors import LayoutError, UsageError
from qkvinspect.formats.safetensors import CODES
from qkvinspect.matrix import as_matrix
from qkvinspect.model import Orientation, TensorInfo
from qkvinspect.packing import merge
from qkvinspect.progress import Progress, counter
from qkvinspect.report import Attention, Report, row_ranges

SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor to write: some rows of a stored one.

    Attributes:
        shape: [out, in] as nn.Linear stores a weight, [out] for a bias.
    """

    name: str
    info: TensorInfo
    orientation: Orientation
    rows: tuple[range, ...]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.info.dtype.nbytes(prod(self.shape))


def split_pieces(report: Report, *, heads_split: bool = False) -> list[Piece]:
    """What ``export --split`` writes: ``<layer>.q_proj.weight`` and so on; with ``heads_split`` each head apart.

    Raises:
        LayoutError: a layer cannot be split, or two tensors would have the same name.
    """
    pieces: dict[str, Piece] = {}
    for attention in report.attentions:
        for piece in _pieces(attention, heads_split):
            if piece.name in pieces:
                raise LayoutError("two layers would be written under this name", tensor=piece.name)
            pieces[piece.name] = piece
    return list(pieces.values())


def write(
    report: Report, pieces: Sequence[Piece], target: Path, *, force: bool = False, progress: Progress | None = None
) -> None:
    """Write the pieces to ``target``, whole or not at all; its suffix chooses the format.

    Raises:
        UsageError: the suffix is unknown, the target exists, or is the checkpoint itself.
        LayoutError: the format has no such dtype.
    """
    if target.suffix not in SUFFIXES:
        raise UsageError("has a suffix that names no format", file=str(target), expected=" or ".join(SUFFIXES))
    if any(_same_file(target, Path(file)) for piece in pieces for file in piece.info.region.files):
        raise UsageError("is the checkpoint that is being read", file=str(target), hint="give another name")
    metadata = _metadata(report, pieces)
    save = _write_safetensors if target.suffix == ".safetensors" else _write_torch
    with new_file(target, force=force) as file:
        save(file, pieces, metadata, counter(sum(piece.nbytes for piece in pieces), progress))
        report.checkpoint.check()


def _pieces(attention: Attention, heads_split: bool) -> Iterator[Piece]:
    if not attention.parts:
        raise LayoutError(
            f"layer {attention.layer!r} cannot be split",
            expected="one layout and the heads it needs",
            found=" or ".join(attention.candidates),
            hint="see what `qkvinspect explain` says of it, or leave it out with --layer",
        )
    if heads_split and attention.heads is None:
        raise LayoutError(
            f"layer {attention.layer!r} cannot be split into heads: their number is unknown",
            hint="give --heads N",
        )
    prefix = f"{attention.layer}." if attention.layer else ""
    for part in attention.parts:
        base = f"{prefix}{part.name}_proj"
        named = [(f"{base}.heads.{head}", head) for head in range(len(part.heads))] if heads_split else [(base, None)]
        for name, head in named:
            rows = part.rows if head is None else (part.heads[head],)
            shape = (sum(map(len, rows)), part.in_features)
            yield Piece(f"{name}.weight", part.weight, part.orientation, rows, shape)
        for name, head in named if part.bias is not None else []:
            assert part.bias is not None
            rows = merge(part.bias_heads) if head is None else (part.bias_heads[head],)
            yield Piece(f"{name}.bias", part.bias, "out_in", rows, (sum(map(len, rows)),))


def _metadata(report: Report, pieces: Sequence[Piece]) -> dict[str, str]:
    """Where every tensor came from, as text (safetensors metadata holds nothing else)."""
    origin = {piece.name: {"tensor": piece.info.name, "rows": row_ranges(piece.rows)} for piece in pieces}
    layers = {
        attention.layer: {
            "layout": attention.layout.id if attention.layout else None,
            "num_heads": attention.heads.num_heads if attention.heads else None,
            "num_kv_heads": attention.heads.num_kv_heads if attention.heads else None,
            "num_heads_from": attention.heads_from,
        }
        for attention in report.attentions
    }
    return {
        "format": "pt",
        "qkvinspect.version": __version__,
        "qkvinspect.source": Path(report.checkpoint.path).name,
        "qkvinspect.source_format": report.checkpoint.format,
        "qkvinspect.layers": json.dumps(layers),
        "qkvinspect.origin": json.dumps(origin),
    }


def _write_safetensors(
    file: BinaryIO, pieces: Sequence[Piece], metadata: Mapping[str, str], advance: Callable[[int], None]
) -> None:
    """Header first, then each piece in bounded chunks. The library would need all of them in memory."""
    codes = {name: code for code, name in CODES.items()}
    codes["float4_e2m1fn_x2"] = codes["float4_e2m1fn"]
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    ordered = sorted(pieces, key=lambda piece: -piece.info.dtype.bits)
    for piece in ordered:
        if piece.info.dtype.name not in codes:
            raise LayoutError(
                f"safetensors has no dtype {piece.info.dtype.name}", tensor=piece.name, hint="write a .pt file instead"
            )
        shape = [*piece.shape[:-1], piece.shape[-1] * piece.info.dtype.values]
        header[piece.name] = {
            "dtype": codes[piece.info.dtype.name],
            "shape": shape,
            "data_offsets": [offset, offset + piece.nbytes],
        }
        offset += piece.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for piece in ordered:
        copy_rows(as_matrix(piece.info, piece.orientation), piece.rows, file, advance)


def _write_torch(
    file: BinaryIO, pieces: Sequence[Piece], metadata: Mapping[str, str], advance: Callable[[int], None]
) -> None:
    """A plain state_dict by torch.save; where it came from stands in its ``_metadata``, as in torch's own."""
    import torch

    from qkvinspect.tensors import to_torch

    state: OrderedDict[str, Any] = OrderedDict()
    for piece in pieces:
        data = bytearray()
        for chunk in read_rows(as_matrix(piece.info, piece.orientation), piece.rows):
            data += chunk
            advance(len(chunk))
        state[piece.name] = to_torch(data, piece.info.dtype, piece.shape, piece.name)
    state.__dict__["_metadata"] = {"": {"version": 1}, "qkvinspect": dict(metadata)}
    torch.save(state, file)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
