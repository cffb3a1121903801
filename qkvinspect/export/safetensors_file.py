"""safetensors, written as a stream. The library would need all tensors in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

from qkvinspect.errors import LayoutError
from qkvinspect.export.pieces import OutputTensor, copy, spans
from qkvinspect.formats.safetensors import CODES

_METADATA = "__metadata__"
_CODES = {name: code for code, name in CODES.items()} | {"float4_e2m1fn_x2": "F4"}


def write_safetensors(
    file: BinaryIO,
    pieces: Sequence[OutputTensor],
    before: Callable[[], Mapping[str, str]],
    after: Callable[[], Mapping[str, str]],
    advance: Callable[[int], None],
) -> None:
    """The tensors first, then the header in the room left for it: until then the file is none.

    Args:
        before, after: the metadata, asked before the tensors are written and then; of the same length.
    """
    ordered = sorted(pieces, key=lambda piece: -piece.dtype.bits)
    size = len(_header(ordered, before()))
    file.seek(size)
    for piece in ordered:
        copy(spans(piece), file, advance)
    header = _header(ordered, after())
    assert len(header) == size
    file.seek(0)
    file.write(header)


def require_code(piece: OutputTensor) -> None:
    """Refuse what the format cannot hold.

    Raises:
        LayoutError: it has no such dtype, or no place for such a name.
    """
    if piece.name == _METADATA or not _is_unicode(piece.name):
        raise LayoutError(
            "safetensors cannot hold a tensor of this name", tensor=piece.name, hint="write a .pt file, or --rename it"
        )
    if piece.dtype.name not in _CODES:
        hint = "its numbers have to be dequantised first" if piece.dtype.block > 1 else "write a .pt file instead"
        raise LayoutError(f"safetensors has no dtype {piece.dtype.name}", tensor=piece.name, hint=hint)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _header(pieces: Sequence[OutputTensor], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {_METADATA: metadata}
    offset = 0
    for piece in pieces:
        values = piece.dtype.values
        header[piece.name] = {
            "dtype": _CODES[piece.dtype.name],
            "shape": [*piece.shape[:-1], piece.shape[-1] * values] if piece.shape else [],
            "data_offsets": [offset, offset + piece.nbytes],
        }
        offset += piece.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
