"""One small file a format, cut at every byte and with every bit flipped: nothing may be misread in silence."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch

from tests.hostile import seeds
from tests.hostile.bounds import timed
from tests.hostile.memory import MemoryFile
from tests.hostile.oracles import disagreements
from tests.hostile.reading import Outcome, outcome
from tests.hostile.writers import zips

Make = Callable[[bytes], MemoryFile]


def _saved(**options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.arange(6.0).reshape(2, 3).T, "index": torch.tensor([3, -1])}, buffer, **options)
    return buffer.getvalue()


def _in_zip(data: bytes) -> MemoryFile:
    return MemoryFile(zips.torch_archive(data, seeds.KEYS))


_SHARDED = seeds.SHARDED["two"]
_INDEX = next(iter(_SHARDED))

FILES: dict[str, tuple[bytes, Make]] = {
    "safetensors": (seeds.SAFETENSORS["two"], MemoryFile),
    "zip": (seeds.ZIPS["torch"], MemoryFile),
    "zip by Python": (seeds.ZIPS["python"], MemoryFile),
    "zip by torch": (_saved(), MemoryFile),
    "pickle": (seeds.PICKLES["plain"], _in_zip),
    "legacy": (seeds.LEGACY["torch"], MemoryFile),
    "legacy by torch": (_saved(_use_new_zipfile_serialization=False), MemoryFile),
    "tar": (seeds.TARS["torch"], MemoryFile),
    "index": (_SHARDED[_INDEX], lambda data: MemoryFile(data, _INDEX, _SHARDED)),
}
CHECKED = ("zip", "zip by Python", "zip by torch")
"""Formats with checksums over everything that tells what a tensor is: no flip may show in a tensor."""


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
    return "as the trusted reader" if disagreements(file.data, found.tensors) == [] else "misread"


def flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    for at in range(8 * len(data)):
        byte, bit = divmod(at, 8)
        yield at, data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]


@pytest.mark.parametrize("name", FILES)
def test_every_bit(name: str) -> None:
    data, make = FILES[name]
    sound = outcome(make(data))
    assert sound.tensors
    verdicts: Counter[str] = Counter()
    misread: list[str] = []
    with timed() as within:
        for at, flipped in flips(data):
            file = make(flipped)
            said = verdict(name, sound, within(outcome, file), file)
            verdicts[said] += 1
            if said == "misread":
                misread.append(f"bit {at % 8} of byte {at // 8} ({data[max(0, at // 8 - 8) :][:16]!r})")
    assert not misread, verdicts
    assert verdicts["refused"] > len(data)


@pytest.mark.parametrize("name", FILES)
def test_every_cut(name: str) -> None:
    """A file that ends early is refused; only the padding that ends a tar may go."""
    data, make = FILES[name]
    sound = outcome(make(data))
    for length in range(len(data)):
        found = outcome(make(data[:length]))
        assert found.refusal is not None or (name == "tar" and found == sound), length
