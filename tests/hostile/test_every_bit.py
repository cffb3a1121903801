"""One small file a format, cut at every byte and with every bit flipped: nothing may be misread in silence.

Every run flips one bit of each byte, another one from byte to byte; ``-m mass`` flips them all.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from tests.hostile import seeds
from tests.hostile.bounds import no_hang
from tests.hostile.memory import MemoryFile
from tests.hostile.oracles import disagreements
from tests.hostile.reading import Outcome, outcome
from tests.hostile.writers import zips
from tests.some import first

Make = Callable[[bytes], MemoryFile]


def _saved(**options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.arange(6.0).reshape(2, 3).T, "index": torch.tensor([3, -1])}, buffer, **options)
    return buffer.getvalue()


def _big() -> bytes:
    """As a machine of the other byte order saves it."""
    members = zips.torch_members(seeds.PICKLES["plain"], seeds.KEYS)
    return zips.archive([replace(m, content=b"big") if m.name.endswith(b"byteorder") else m for m in members])


def _in_zip(data: bytes) -> MemoryFile:
    return MemoryFile(zips.torch_archive(data, seeds.KEYS))


_SHARDED = seeds.SHARDED["two"]
_INDEX = next(iter(_SHARDED))

FILES: dict[str, tuple[bytes, Make]] = {
    "safetensors": (seeds.SAFETENSORS["two"], MemoryFile),
    "zip": (seeds.ZIPS["torch"], MemoryFile),
    "zip of a big-endian machine": (_big(), MemoryFile),
    "zip by Python": (seeds.ZIPS["python"], MemoryFile),
    "zip by torch": (_saved(), MemoryFile),
    "pickle": (seeds.PICKLES["plain"], _in_zip),
    "legacy": (seeds.LEGACY["torch"], MemoryFile),
    "legacy by torch": (_saved(_use_new_zipfile_serialization=False), MemoryFile),
    "tar": (seeds.TARS["torch"], MemoryFile),
    "index": (_SHARDED[_INDEX], lambda data: MemoryFile(data, _INDEX, _SHARDED)),
}
CHECKED = ("zip", "zip of a big-endian machine", "zip by Python", "zip by torch")
"""Formats with checksums over everything that tells what a tensor is: no flip may show in a tensor."""

_PICKLE = (
    rb"\x80\x02",
    rb"cpu",
    rb"h\x06(?=K\x02N)",
    rb"\x89ccollections\nOrderedDict\n",
    rb"\x89(h\n)?",
    rb"q[\0-\x16]",
)
_SYSTEM = (
    rb"\x88(?=X\n\0\0\0type_sizes)",
    rb"X.\0\0\0protocol_version(q.)?M\xe9\x03",
    rb"type_sizes.{,9}X.\0\0\0short.*?long(q.)?K\x04",
)
NEUTRAL: dict[str, tuple[bytes, ...]] = {
    "pickle": _PICKLE,
    "legacy": (*_PICKLE, *_SYSTEM, re.escape(seeds.LONGS[:8]) + rb"(?=\0{8})"),
    "legacy by torch": (*_PICKLE, *_SYSTEM),
    "tar": (rb"\x80\x02", rb"cpu", rb"(?<=Tensor\n\x87\.[\1\2]\0\0\0)\0{4}", rb"(?<=K\x04K)\x08(?=te)"),
    "index": (rb'"metadata": \{"total_size": 96\}',),
}
"""Bytes that no tensor depends on: a protocol's number, a device, requires_grad and backward hooks, the number under
which something is kept in the memo and never asked for, what sys_info says of C's types and
byte order (the storages are little-endian on every machine), what a tar has behind a
number of dimensions, the size of a view of a storage, a storage's element that no
tensor reaches, and the total size that an index claims."""

NEUTRAL_FIELDS = {
    "made_by",
    "needs",
    "time",
    "date",
    "internal",
    "external",
    "disk",
    "disks",
    "first_disk",
    "padding",
    "descriptor",
}
"""Of a zip: who made the entry and when, what else it is to an operating system, and what is written twice."""
UNREAD = (".format_version", ".storage_alignment", ".data/serialization_id", "version")
"""Entries that say nothing about a tensor; any of their bytes may be flipped."""


def zip_places(data: bytes) -> dict[int, str]:
    """What each byte of a zip is: a header's field, or the entry it belongs to if that is never read."""
    places = dict.fromkeys(range(len(data)), "descriptor")

    def name(start: int, fields: list[tuple[str, int]], whole: str | None) -> int:
        for field, width in fields:
            places.update(dict.fromkeys(range(start, start + width), whole or field))
            start += width
        return start

    for at in (match.start() for match in re.finditer(b"PK\x01\x02", data)):
        central = dict(zip(zips.CENTRAL_FIELDS, zips.CENTRAL.unpack_from(data, at), strict=True))
        entry = data[at + 46 :][: central["name"]].decode().partition("/")[2]
        whole = "unread" if entry in UNREAD else None
        name(at, [*zip(zips.CENTRAL_FIELDS, zips.CENTRAL_WIDTHS, strict=True), ("text", central["name"])], whole)
        header = central["header"]
        local = dict(zip(zips.LOCAL_FIELDS, zips.LOCAL.unpack_from(data, header), strict=True))
        tail = [("text", local["name"]), ("padding", local["extra"]), ("content", central["stored"])]
        name(header, [*zip(zips.LOCAL_FIELDS, zips.LOCAL_WIDTHS, strict=True), *tail], whole)
    for mark, fields, widths in (
        (b"PK\x05\x06", zips.END_FIELDS, zips.END_WIDTHS),
        (b"PK\x06\x06", zips.END64_FIELDS, zips.END64_WIDTHS),
        (b"PK\x06\x07", zips.LOCATOR_FIELDS, zips.LOCATOR_WIDTHS),
    ):
        at = data.rfind(mark)
        if at >= 0:
            name(at, [*zip(fields, widths, strict=True)], None)
    return places


def neutral(name: str, data: bytes) -> set[int]:
    """The places where a flip may change nothing."""
    if name in CHECKED:
        return {at for at, field in zip_places(data).items() if field in NEUTRAL_FIELDS or field == "unread"}
    spans = (match.span() for shape in NEUTRAL.get(name, ()) for match in re.finditer(shape, data, re.DOTALL))
    return {at for start, end in spans for at in range(start, end)}


def verdict(name: str, sound: Outcome, found: Outcome, file: MemoryFile) -> str:
    """What became of a damaged file; "misread" is the one that must not be."""
    if found.refusal is not None:
        return "refused"
    if found.tensors == sound.tensors:
        return "identical"
    if name in CHECKED:
        return "misread"
    lost = [tensor for tensor in sound.tensors if tensor not in found.tensors]
    if lost and len(found.tensors) < len(sound.tensors):
        kept = {tensor: sound.tensors[tensor] for tensor in found.tensors if tensor in sound.tensors}
        said = all(any(tensor in line for line in found.findings) for tensor in lost)
        return "left out and said so" if said and kept == found.tensors else "misread"
    if file.folder:
        return "misread"
    return "as the trusted reader" if disagreements(file.data, found) == [] else "misread"


def flips(data: bytes, bits: int, every: int) -> Iterator[tuple[int, bytes]]:
    """The file with one bit changed, for so many bits of one byte of so many; which of them, goes round."""
    for at in (8 * b + (3 * (b // every) + bit) % 8 for b in range(0, len(data), every) for bit in range(bits)):
        byte, bit = divmod(at, 8)
        yield at, data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]


@pytest.mark.parametrize(("bits", "every"), first(1, [(1, 3), (8, 1)]))
@pytest.mark.parametrize("name", FILES)
def test_every_bit(name: str, bits: int, every: int) -> None:
    data, make = FILES[name]
    sound = outcome(make(data))
    assert sound.tensors
    verdicts: Counter[str] = Counter()
    misread: list[str] = []
    may_change_nothing = neutral(name, data)
    with no_hang() as within:
        for at, flipped in flips(data, bits, every):
            file = make(flipped)
            said = verdict(name, sound, within(outcome, file), file)
            verdicts[said] += 1
            if said == "misread" or (said == "identical" and at // 8 not in may_change_nothing):
                misread.append(f"{said}: bit {at % 8} of byte {at // 8} ({data[max(0, at // 8 - 8) :][:16]!r})")
    assert not misread, verdicts
    assert verdicts["refused"] > len(data) // every * bits // 8


@pytest.mark.parametrize("name", FILES)
def test_every_cut(name: str) -> None:
    """A file that ends early is refused."""
    data, make = FILES[name]
    for length in range(len(data)):
        found = outcome(make(data[:length]))
        assert found.refusal is not None, length
