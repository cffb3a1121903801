"""In which order of bytes the scales of blocks, and bfloat16, lie in a big-endian GGUF file.

Both occur. ``gguf.GGUFWriter`` writes blocks and bfloat16 as the bytes that it is given, made on a little-endian
machine, and swaps only numbers that numpy has; ``gguf-convert-endian`` (gguf/scripts/gguf_convert_endian.py) swaps
bfloat16 and the scales of Q4_0, Q8_0, Q4_K and Q6_K too, as llama.cpp on a big-endian machine needs them. Nothing in
the file says which: the numbers do.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from sys import byteorder
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import ByteOrder, TensorInfo
from qkvinspect.fast_dataclass import replace

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

HALVES: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}
"""Where float16 lie in a block of the types that have no other number of several bytes (ggml-common.h)."""

_BFLOAT16 = "bfloat16"

_BYTES = frozenset({"MXFP4", "NVFP4"})
"""Types of single bytes only."""

_TENSORS, _SAMPLE = 64, 1 << 15
"""How many tensors of a file are looked at, and how many bytes of each."""

_LARGEST, _LARGEST_BFLOAT16 = 0x6400, 0x4980
"""1024 as float16 and 2**20 as bfloat16, whose bits have the order of the numbers. No scale of weights and no weight is
larger; of two random bytes one number in five is, or is not finite."""

_FEW, _MANY = 1 / 50, 1 / 20
"""Shares of impossible scales: up to the first an order may be right, from the second on it is wrong."""


def with_order(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of one big-endian file, those in blocks and in bfloat16 with the order in which their numbers lie."""
    blocks = _order([info for info in tensors.values() if info.dtype.name in HALVES], _LARGEST)
    bfloats = _order([info for info in tensors.values() if info.dtype.name == _BFLOAT16], _LARGEST_BFLOAT16)
    return {name: replace(info, byteorder=_of_type(info, blocks, bfloats)) for name, info in tensors.items()}


def _of_type(info: TensorInfo, blocks: ByteOrder, bfloats: ByteOrder) -> ByteOrder:
    if info.dtype.name == _BFLOAT16:
        return "little" if bfloats == "little" else "big"
    if info.dtype.block == 1:
        return "big"
    if info.dtype.name in _BYTES:
        return "little"
    return blocks if blocks == "little" or info.dtype.name in HALVES else "unknown"


def _order(infos: Sequence[TensorInfo], largest: int) -> ByteOrder:
    """The order in which numbers of 16 bits are possible, where they are so in one only."""
    known = [info for info in infos if info.region.nbytes]
    halves = array("H")
    for info in known[:: max(len(known) // _TENSORS, 1)]:
        size = info.dtype.bits // 8
        nbytes = min(info.region.nbytes, max(_SAMPLE // size, 1) * size)
        first = (info.region.nbytes // size - nbytes // size) // 2 * size
        data = info.region.source.read(info.region.start + first, nbytes)
        for place in HALVES.get(info.dtype.name, (0,)):
            halves.frombytes(b"".join(data[at : at + 2] for at in range(place, nbytes, size)))
    if not halves:
        return "unknown"
    swapped = array("H", halves)
    swapped.byteswap()
    if halves == swapped:
        return "little"  # both are the same numbers
    little, big = (halves, swapped) if byteorder == "little" else (swapped, halves)
    wrong = [sum(one & 0x7FFF > largest for one in each) / len(each) for each in (little, big)]
    if wrong[0] <= _FEW and wrong[1] >= _MANY:
        return "little"
    return "big" if wrong[1] <= _FEW and wrong[0] >= _MANY else "unknown"


def in_order(blocks: Array, info: TensorInfo) -> Array:
    """Blocks as bytes, uint8 [blocks, bytes of one], as they are on a little-endian machine."""
    if info.byteorder != "big":
        return blocks
    swapped = blocks.copy()
    for place in HALVES[info.dtype.name]:
        swapped[:, [place, place + 1]] = blocks[:, [place + 1, place]]
    return swapped
