"""What the coverage-guided fuzzer aims at: how its bytes become a file, and how they are changed with sense."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from tests.hostile import mutants, seeds
from tests.hostile.memory import MemoryFile
from tests.hostile.writers import tars, zips


@dataclass(frozen=True)
class Target:
    """One format.

    Attributes:
        source: the file that some bytes stand for.
        mutate: another input made of one, however broken that is already.
    """

    seeds: Iterable[bytes]
    mutate: Callable[[Random, bytes], bytes]
    source: Callable[[bytes], MemoryFile] = MemoryFile


def _bytes(random: Random, data: bytes) -> bytes:
    return mutants.some(random, mutants.BYTES, data)


_SHARDED = seeds.SHARDED["two"]
_INDEX = next(iter(_SHARDED))
_DCP = seeds.DCP["two ranks"]

TARGETS: dict[str, Target] = {
    "pickle": Target(
        seeds.PICKLES.values(), mutants.pickle, lambda data: MemoryFile(zips.torch_archive(data, seeds.KEYS))
    ),
    "many": Target([seeds.MANY], mutants.pickle, lambda data: MemoryFile(zips.torch_archive(data, seeds.MANY_KEYS))),
    "zip": Target(seeds.ZIPS.values(), lambda random, data: zips.with_checksums(_bytes(random, data))),
    "safetensors": Target(seeds.SAFETENSORS.values(), _bytes),
    "legacy": Target(seeds.LEGACY.values(), _bytes),
    "tar": Target(seeds.TARS.values(), lambda random, data: tars.with_checksums(_bytes(random, data))),
    "sharded": Target([_SHARDED[_INDEX]], _bytes, lambda data: MemoryFile(data, _INDEX, _SHARDED)),
    "dcp": Target([_DCP[".metadata"]], mutants.pickle, lambda data: MemoryFile(data, ".metadata", _DCP)),
}
