"""The safetensors format: 8 bytes of length, a JSON header, then the tensors' bytes without gaps.

Read here rather than by the safetensors library, which accepts duplicate names and maps the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from qkvinspect.checkpoint import ByteSource, Checkpoint, Config, Container, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES, DType
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError, UsageError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats import plain_header, strict_json
from qkvinspect.formats import safetensors_parts as parts
from qkvinspect.formats.damaged import damaged
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.plain_header import CODES, MAX_RANK, METADATA
from qkvinspect.formats.request import OpenRequest
from qkvinspect.formats.trailing import follows
from qkvinspect.parsed import is_integers, is_mapping, is_texts

NAME: str = "safetensors"
IS_INDEX: bool = False

_BEFORE = b" \t\r\n\xef\xbb\xbf"
_FIELDS = {"dtype", "shape", "data_offsets"}


def sniff(head: bytes) -> bool:
    """Whether a length and a brace come first; a file that can be nothing else is refused as damaged safetensors."""
    if int.from_bytes(head[:8], "little") < 1 << 40:
        return head[8:].lstrip(_BEFORE)[:1] == b"{" and len(head) > 8
    return head[8:10] in (b'{"', b"{}") and not head.lstrip().startswith(b"{")


def open(source: ByteSource, request: OpenRequest) -> Checkpoint:
    """Read the header; no tensor is read.

    Raises:
        CheckpointError: the header is malformed, or does not describe the file's bytes exactly.
    """
    if request.container:
        raise UsageError("safetensors files have no containers", file=source.name, found=repr(request.container))
    described = describe(source, request.limits)
    tensors, texts = described
    if parts.KEY in texts:
        offsets = parts.offsets(source, described, request.limits)
        if parts.is_part(source, offsets):
            return parts.open(source, (described, offsets), request, describe)
    return Checkpoint(
        path=source.name,
        format=NAME,
        num_bytes=source.size,
        tensors=tensors,
        metadata=texts,
        configs=tuple(_configs(texts, source.name, request.limits)),
        containers=(Container("", len(tensors), "model"),),
        loader="safetensors",
        sorted_names=True,
    )


_Kind = tuple[DType, tuple[int, ...], tuple[int, ...], int | None]
_Known = dict[tuple[str, tuple[int, ...]], _Kind]
"""Dtype, shape, strides and bytes (None: no whole number) of the tensors before, by code and shape: a million have few
that differ."""


class _TensorEntry(NamedTuple):
    """What the header says of a tensor without fault."""

    kind: _Kind
    start: int
    end: int


def describe(source: ByteSource, limits: Limits) -> parts.Described:
    """The tensors and the metadata of one file, by its header.

    Raises:
        CheckpointError: the header is malformed, or does not describe the file's bytes exactly.
    """
    length = int.from_bytes(source.read(0, 8), "little")
    if length > source.size - 8:
        raise damaged(
            source, Code.SAFETENSORS_LENGTH, "header is longer than the file", f"{length} bytes of {source.size - 8}"
        )
    limits.check("header", length, source.name)
    text = source.read(8, length)
    quickly = plain_header.read(source, text, limits)
    if quickly is not None:
        return parts.Described(*quickly)
    known: _Known = {}
    header, data_start = _parsed(source, text, limits, known), 8 + length
    metadata = header.pop(METADATA, {})
    if not is_texts(metadata):
        raise damaged(source, Code.SAFETENSORS_METADATA, "metadata is not a map from text to text", None)
    # what is parsed goes as tensors come: both together would take more room
    tensors = {name: _tensor(source, name, header.pop(name), data_start) for name in list(header)}
    _check_places(source, tensors, data_start)
    return parts.Described(tensors, metadata)


def _configs(metadata: dict[str, str], file: str, limits: Limits) -> Iterator[Config]:
    """Hyper-parameters that a library keeps in the metadata, as JSON."""
    for key, text in metadata.items():
        if text.startswith("{"):
            try:
                values = strict_json.loads(text.encode("utf-8", "surrogatepass"), file, limits)
            except ValueError:
                continue  # any text may begin so
            if is_mapping(values):
                yield Config(f"checkpoint:{key}", values, inside=True)


def _parsed(source: ByteSource, text: bytes, limits: Limits, known: _Known) -> dict[str, object]:
    if text[:1] != b"{":
        found = repr(text[:8])
        raise damaged(source, Code.SAFETENSORS_JSON, "header is not valid JSON: it does not begin with a brace", found)
    try:
        header = strict_json.loads(text, source.name, limits, lambda entry: _compact(entry, known))
        if isinstance(header, _TensorEntry):  # the whole of it looks like an entry
            header = strict_json.loads(text, source.name, limits)
    except ValueError as error:
        twice = isinstance(error, strict_json.DuplicateError)
        code = Code.SAFETENSORS_DUPLICATE if twice else Code.SAFETENSORS_JSON
        raise damaged(source, code, f"header is not valid JSON: {error}", None) from error
    assert is_mapping(header)  # JSON that begins with a brace
    return header


def _compact(entry: dict[str, object], known: _Known) -> object:
    """An entry without fault in a third of the room; any other object as it is."""
    if len(entry) != 3:
        return entry
    code, sizes, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if type(code) is not str or not is_integers(sizes) or not is_integers(offsets) or len(offsets) != 2:
        return entry
    shape = tuple(sizes)
    kind = known.get((code, shape))
    if kind is None:
        if code not in CODES or len(shape) > MAX_RANK or (shape and not 0 <= min(shape) <= max(shape) < 1 << 63):
            return entry
        dtype = DTYPES[CODES[code]]
        bits = dtype.bits * prod(shape)
        kind = known[code, shape] = dtype, shape, contiguous_strides(shape), None if bits % 8 else bits // 8
    return _TensorEntry(kind, *offsets)


def _tensor(source: ByteSource, name: str, entry: object, data_start: int) -> TensorInfo:
    """One tensor of the header."""
    if not isinstance(entry, _TensorEntry):
        raise _faulty(source, name, entry)
    kind, start, end = entry
    if start > end:
        raise damaged(source, Code.SAFETENSORS_OFFSETS, "data_offsets end before they start", str((start, end)), name)
    if start < 0 or end > source.size - data_start:
        found = f"[{start}, {end}) of {source.size - data_start}"
        raise damaged(source, Code.SAFETENSORS_RANGE, "data is outside the file", found, name)
    dtype, shape, strides, nbytes = kind
    if nbytes is None or nbytes != end - start:
        raise CheckpointError(
            "shape and bytes disagree",
            code=Code.SAFETENSORS_SIZE,
            file=source.name,
            tensor=name,
            expected=f"{dtype.nbytes(prod(shape))} bytes for {list(shape)} of {dtype.name}",
            found=f"{end - start} bytes",
            hint="the file is damaged",
        )
    region = Region(source, data_start + start, nbytes)  # whose number of bytes is kept once for all of a kind
    return TensorInfo(name, dtype, shape, strides, region, 0, "little", (name,))


def _faulty(source: ByteSource, name: str, entry: object) -> CheckpointError:
    """What is wrong with an entry that does not describe a tensor."""
    fields = entry if is_mapping(entry) else {}
    if len(fields) != 3 or not fields.keys() >= _FIELDS:
        message = "header entry needs exactly dtype, shape, data_offsets"
        return damaged(source, Code.SAFETENSORS_FIELDS, message, None, name)
    code, shape, offsets = fields["dtype"], _integers(fields["shape"]), _integers(fields["data_offsets"])
    if shape is None or len(shape) > MAX_RANK or (shape and not 0 <= min(shape) <= max(shape) < 1 << 63):
        found = str(fields["shape"])[:60] if shape is None or len(shape) <= MAX_RANK else f"{len(shape)} sizes"
        return damaged(source, Code.SAFETENSORS_SHAPE, "shape is not a list of sizes", found, name)
    if offsets is None or len(offsets) != 2:
        message = "data_offsets are not two numbers"
        return damaged(source, Code.SAFETENSORS_OFFSETS, message, str(fields["data_offsets"])[:60], name)
    return damaged(source, Code.SAFETENSORS_DTYPE, "unknown dtype", repr(code)[:60], name)


def _integers(value: object) -> tuple[int, ...] | None:
    return tuple(value) if is_integers(value) else None


def _check_places(source: ByteSource, tensors: Mapping[str, TensorInfo], data_start: int) -> None:
    """The tensors' bytes must follow each other without a hole or an overlap, to the end of the file."""
    position = _end_in_order(tensors, data_start)
    if position is None:
        position = data_start
        places = ((info.region.start, info.region.nbytes, name) for name, info in tensors.items())
        for start, nbytes, name in sorted(places):
            if start != position:
                code = Code.SAFETENSORS_HOLE if start > position else Code.SAFETENSORS_OVERLAP
                found = f"offset {start - data_start}, expected {position - data_start}"
                raise damaged(source, code, "its bytes do not follow the tensor before", found, name)
            position += nbytes
    if position != source.size:
        raise follows(source, Code.SAFETENSORS_TRAILING, "bytes belong to no tensor", position)


def _end_in_order(tensors: Mapping[str, TensorInfo], start: int) -> int | None:
    """Where the last one ends, if they lie as they are listed: mostly, and it takes less time and room than to sort."""
    for info in tensors.values():
        region = info.region
        if region.start != start:
            return None
        start += region.nbytes
    return start
