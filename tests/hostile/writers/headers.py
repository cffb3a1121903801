"""safetensors files: a length, a header that may hold anything, then data."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence

Entry = tuple[str, Sequence[int], bytes]
"""dtype, shape, data."""


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file.

    Args:
        header: the JSON text, or a value to write as JSON.
        length: what the first eight bytes say, if it is not the truth.
    """
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def described(
    tensors: Mapping[str, Entry], metadata: Mapping[str, str] | None = None
) -> tuple[dict[str, object], bytes]:
    """The sound header of some tensors, and their data."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += content
    return header, data


def pairs(entries: Sequence[tuple[str, object]]) -> bytes:
    """A JSON object of these entries, as they come: a name may stand in it twice."""
    return (
        b"{" + b",".join(json.dumps(key).encode() + b":" + json.dumps(value).encode() for key, value in entries) + b"}"
    )
