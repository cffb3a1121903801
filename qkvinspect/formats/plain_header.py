"""Headers of safetensors as writers make them, read without a parser of JSON: a third of its time and half the room.

Whatever is written in another way, or has any fault, is left to that parser, which tells what is wrong.
"""

from __future__ import annotations

from math import prod
from re import Match

from qkvinspect.checkpoint import ByteSource, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.formats import strict_json
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.repeated_entries import UNNUMBERED, RepeatedEntries, beginning, is_of_stack
from qkvinspect.late_pattern import late_pattern
from qkvinspect.parsed import is_integers, is_mapping, is_texts
from qkvinspect.tensor_table import BITS, KIND, NamedBlock, TensorKind, TensorTable

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
    scan = _Scan(source, text, limits)
    if not scan.read(at):
        return None
    table = TensorTable(source, scan.kinds, scan.places, scan.blocks)
    if scan.count != len(table) or METADATA in scan.places or begin + scan.position != source.size:
        return None
    if scan.blocks and any(map(TensorTable(source, scan.kinds, {}, scan.blocks).__contains__, scan.places)):
        return None
    if not scan.in_order:
        position = begin
        for place in sorted(place for _, place in table.placed()):  # without bytes: behind others that start there
            if place >> BITS != position:
                return None
            position += scan.kinds[place & KIND].nbytes
    return table, texts


class _Scan:
    """What was read of a header.

    Attributes:
        count, position: of the tensors, and the bytes that all of them have.
        in_order: whether they lie as they are listed.
    """

    def __init__(self, source: ByteSource, text: bytes, limits: Limits) -> None:
        self._file, self._text, self._limits = source.name, text, limits
        self._begin = 8 + len(text)
        self._known: dict[tuple[bytes, bytes], int] = {}
        self.kinds: list[TensorKind] = []
        self.places: dict[str, int] = {}
        self.blocks: dict[str, NamedBlock] = {}
        self.count, self.position, self.in_order = 0, 0, True

    def read(self, at: int) -> bool:
        """Read all entries from there; whether they are as writers make them."""
        text, last = self._text, False
        since, layer, own = at, UNNUMBERED, list[int]()  # where the entries of a layer begin, how, and their kinds
        while not last:
            if not text.startswith(layer, at):
                if is_of_stack(text, at, layer):
                    at, last = self._layers(RepeatedEntries(layer, _ENTRY.finditer(text, since, at), own), at)
                    if last:
                        break
                since, layer, own = at, beginning(text, at), []
            found = _ENTRY.match(text, at)
            number = None if found is None else self._entry(found)
            if found is None or number is None:
                return False
            own.append(number)
            at, last = found.end(), found[6] is not None
        return True

    def _layers(self, alike: RepeatedEntries, at: int) -> tuple[int, bool]:
        """Read the layers that begin there and are like one; where they end, and whether the header does."""
        count, last, known = 0, False, self.blocks
        for blocks, stop, ends in alike.layers(self._text, at, self.position, (self._begin, self.count)):
            at, last = stop, ends
            count += len(blocks)
            for block in blocks:
                if known.setdefault(block.begin, block) is not block:
                    self.places.update(block.placed())
        self.position += count * alike.nbytes
        self.count += count * len(alike.form.ends)
        return at, last

    def _entry(self, found: Match[bytes]) -> int | None:
        """Take the tensor of an entry; the number of its kind, or None where it has a fault."""
        name, code, sizes, first, stop, _ = found.groups()
        number = self._known.get((code, sizes))
        if number is None:
            kind = _kind(code, sizes, self._file, self._limits)
            if kind is None or len(self.kinds) >> BITS:
                return None
            number = self._known[code, sizes] = len(self.kinds)
            self.kinds.append(kind)
        start, nbytes = int(first), self.kinds[number].nbytes
        if int(stop) != start + nbytes:
            return None
        self.in_order = self.in_order and start == self.position
        self.position += nbytes
        self.count += 1
        try:
            self.places[name.decode()] = self._begin + start << BITS | number
        except UnicodeDecodeError:
            return None
        return number


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
