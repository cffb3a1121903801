"""Headers of safetensors as writers make them, read without a parser of JSON: a third of its time and half the room.

Whatever is written in another way, or has any fault, is left to that parser, which tells what is wrong.
"""

from __future__ import annotations

from math import prod

from qkvinspect.checkpoint import ByteSource, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.formats import strict_json
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.repeated_entries import UNNUMBERED, RepeatedEntries, beginning, is_of_stack
from qkvinspect.late_pattern import late_pattern
from qkvinspect.parsed import is_integers, is_mapping, is_texts
from qkvinspect.tensor_table import BITS, TensorKind, TensorTable

CODES: dict[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
    "F4": "float4_e2m1fn",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
"""The dtypes of safetensors 0.8, by the name that a header gives them."""

METADATA = "__metadata__"
MAX_RANK = 1024

_STRING = r'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"'
_TEXTS = late_pattern(rf'\{{"{METADATA}": ?(\{{(?:{_STRING}: ?{_STRING}(?:, ?)?)*\}})[,}}] ?'.encode())
_ENTRY = late_pattern(
    rb'"([^"\\\x00-\x1f]*)": ?\{"dtype": ?"(\w+)", ?"shape": ?\[([0-9, ]*)\], ?'
    rb'"data_offsets": ?\[(0|[1-9][0-9]{0,18}), ?(0|[1-9][0-9]{0,18})\]\}(?:, ?|(\}[ \t\n\r]*\Z))'
)


def read(source: ByteSource, text: bytes, limits: Limits) -> tuple[TensorTable, dict[str, str]] | None:
    """The tensors and the metadata, if the header is as writers make it and describes all bytes of the file.

    Raises:
        CheckpointError: it would make more objects than the limit.
    """
    limits.check("objects", text.count(b"{") + text.count(b"["), source.name)
    texts: dict[str, str] = {}
    at, begin = 1, 8 + len(text)
    said = _TEXTS.match(text)
    if said is not None:
        try:
            metadata = strict_json.loads(said[1], source.name, limits)
        except ValueError:
            return None
        if not is_mapping(metadata) or not is_texts(metadata):
            return None
        texts, at = dict(metadata), said.end()
    kinds: list[TensorKind] = []
    known: dict[tuple[bytes, bytes], tuple[int, int]] = {}
    places: dict[str, int] = {}
    count, position, in_order, last = 0, 0, True, None
    since, layer, own = at, UNNUMBERED, list[int]()  # where the entries of a layer begin, with what, and their kinds
    while last is None:
        if not text.startswith(layer, at):
            if is_of_stack(text, at, layer):
                alike = RepeatedEntries(layer, _ENTRY.finditer(text, since, at), own)
                while (some := alike.next(text, at, position, begin)) is not None:
                    at, count, position = some.stop, count + len(own), position + alike.nbytes
                    places.update(zip(some.names, some.places, strict=True))
            since, layer, own = at, beginning(text, at), []
        found = _ENTRY.match(text, at)
        if found is None:
            return None
        name, code, sizes, first, stop, last = found.groups()
        number, nbytes = known.get((code, sizes)) or (-1, 0)
        if number < 0:
            kind = _kind(code, sizes, source.name, limits)
            if kind is None or len(kinds) >> BITS:
                return None
            number, nbytes = known[code, sizes] = len(kinds), kind.nbytes
            kinds.append(kind)
        start = int(first)
        if int(stop) != start + nbytes:
            return None
        in_order = in_order and start == position
        position += nbytes
        try:
            places[name.decode()] = begin + start << BITS | number
        except UnicodeDecodeError:
            return None
        own.append(number)
        at = found.end()
        count += 1
    if last is None or count != len(places) or METADATA in places or begin + position != source.size:
        return None
    if not in_order:
        position = begin
        for place in sorted(places.values()):  # those without bytes may come after others that start there
            if place >> BITS != position:
                return None
            position += kinds[place & (1 << BITS) - 1].nbytes
    return TensorTable(source, kinds, places), texts


def _kind(code: bytes, sizes: bytes, file: str, limits: Limits) -> TensorKind | None:
    """What a dtype and a shape say, if they have no fault."""
    try:
        shape = strict_json.loads(b"[%b]" % sizes, file, limits)
    except ValueError:
        return None
    dtype = DTYPES.get(CODES.get(code.decode(), ""))
    if dtype is None or not is_integers(shape) or len(shape) > MAX_RANK or max(shape, default=0) >= 1 << 63:
        return None
    bits = dtype.bits * prod(shape)
    return None if bits % 8 else TensorKind(dtype, tuple(shape), contiguous_strides(tuple(shape)), bits // 8)
