"""A million mutations of a GGUF file and of an ONNX file, each in bounded time and memory.

    python -m tests.formats.test_mass_mutations gguf 1000000 [SEED]

does the same and says how far it is; the figures of the last runs are in MUTATIONS.md.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from qkvinspect.errors import CheckpointError
from tests.formats import test_gguf_hostile as ggufs
from tests.formats import test_onnx_hostile as onnxes
from tests.hostile.bounds import bounded_memory, no_hang
from tests.hostile.writers.ggufs import Writer

Read = Callable[[bytes], int]
SOUND: dict[str, tuple[Read, list[bytes]]] = {
    "gguf": (ggufs.read, [ggufs.sound(Writer("<")), ggufs.sound(Writer(">"))]),
    "onnx": (onnxes.read, [onnxes.SOUND]),
}
BYTES = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(rng: random.Random, whole: bytes) -> bytes:
    """With up to four bytes changed, some runs copied or left out, and often cut short."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(4, len(data))] = rng.choice((*BYTES, rng.randrange(256)))
    if rng.random() < 0.2:
        start, stop = sorted(rng.randrange(4, len(data)) for _ in range(2))
        place = rng.randrange(4, len(data))
        data[place:place] = data[start:stop]
    if rng.random() < 0.2:
        start, stop = sorted(rng.randrange(4, len(data)) for _ in range(2))
        del data[start:stop]
    return bytes(data[: rng.randrange(5, len(data) + 1)] if rng.random() < 0.3 else data)


def run(kind: str, count: int, seed: int, said: Callable[[str], None] = lambda text: None) -> Counter[str]:
    """How many were read, and how many refused under each code; anything else is raised."""
    rng, found, began = random.Random(seed), Counter[str](), time.process_time()
    read, wholes = SOUND[kind]
    with no_hang() as within, bounded_memory(128 << 20):
        for done in range(1, count + 1):
            try:
                within(partial(read, mutated(rng, wholes[done % len(wholes)])))
                found["read"] += 1
            except CheckpointError as error:
                found[str(error.code)] += 1
            if done % 10_000 == 0:
                said(f"{kind} {done:,}: {found['read']:,} read, {done - found['read']:,} refused under"
                     f" {len(found) - 1} codes, {time.process_time() - began:.0f} s")  # fmt: skip
    return found


@pytest.mark.mass
@pytest.mark.parametrize("kind", SOUND)
def test_a_million_mutations(kind: str) -> None:
    found = run(kind, 1_000_000, 0)
    assert found["read"] > 10_000
    assert len(found) > 6


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.gate
def test_a_thousand_of_them(kind: str) -> None:
    found = run(kind, 1000, 1)
    assert found["read"] > 10
    assert len(found) > 5


if __name__ == "__main__":
    print(run(sys.argv[1], int(sys.argv[2]), int((*sys.argv, "0")[3]), partial(print, flush=True)))
