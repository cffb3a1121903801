"""Codes of eight bits that are rare elsewhere in their tensor: where noise, text or another file was written over some.

A quantiser scales what it rounds, so that small codes are frequent everywhere and large ones are rare everywhere. In
blocks of a kilobyte, the mean information of a code (the logarithm of how rare it is in the rest of the tensor) was at
most 0.30 bits above the median in int8 tensors of trained checkpoints by others, and 0.15 in Q8_0; where 4 KiB of noise
or text were written over them, at least 0.92 and 0.55. Of tensors below 48 KiB it says too little, and codes of four
bits are too even for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qkvinspect.dtypes import DType
    from qkvinspect.weights.reading import Array
    from qkvinspect.weights.weight import Weight

BLOCK = 1024
_FEWEST = 48
"""Blocks below which a tensor says too little of its own codes."""

_BESIDE = 4
"""Blocks on both sides that are left out of what a block is compared with, as damage may reach into them."""

_BITS, _BITS_OF_BLOCKS = 0.6, 0.4
"""For codes alone, and for blocks of 32 with a scale of their own, which are more even."""

_TIMES, _MOST = 3, 0.7
"""Where blocks differ among themselves, so far that three in ten are above it, they may differ more."""

_AT_ONCE = 8192
_SHARE = 16
"""A sixteenth of the blocks, or eight, is damage; more is how the tensor is."""


def of_eight_bits(weight: Weight, dtype: DType) -> bool:
    """Whether a weight is stored as a whole number of eight bits for each value, alone or with scales between them."""
    alone = weight.encoding is not None and dtype.name in ("int8", "uint8") and weight.stored[0].shape == weight.shape
    return alone or dtype.name == "Q8_0"


def histograms(data: Array) -> Array:
    """How often each byte is in each whole block, [blocks, 256]."""
    import numpy as np

    count = len(data) // BLOCK
    blocks = np.repeat(np.arange(count, dtype=np.int32) << 8, BLOCK) | data[: count * BLOCK]
    return np.bincount(blocks, minlength=count << 8).reshape(count, 256).astype(np.uint16)


def odd(pieces: Sequence[Array], *, alone: bool) -> Iterator[tuple[int, int]]:
    """Bytes whose codes are rare elsewhere in the tensor, by the histograms of all of its blocks.

    Args:
        alone: whether no scales stand between the codes.
    """
    import numpy as np

    bits = _BITS if alone else _BITS_OF_BLOCKS
    counts = np.concatenate(pieces) if pieces else np.zeros((0, 256), np.uint16)
    for first in range(0, len(counts), _AT_ONCE):
        some = counts[first : first + _AT_ONCE]
        if len(some) < _FEWEST:
            continue
        above = _information(some.astype(np.float64))
        above -= np.median(above)
        least = bits + _TIMES * float(np.quantile(above, _MOST))
        high = np.flatnonzero(above[1:] + above[:-1] > 2 * least)
        if 0 < len(high) <= max(8, len(some) // _SHARE):
            for run in np.split(high, np.flatnonzero(np.diff(high) > 1) + 1):
                yield (first + int(run[0])) * BLOCK, (first + int(run[-1]) + 2) * BLOCK


def _information(counts: Array) -> Array:
    """Bits of a code of each block on average, by how frequent it is in the blocks that are not near."""
    import numpy as np

    sums = np.concatenate([np.zeros((1, 256)), np.cumsum(counts, axis=0)])
    number = np.arange(len(counts))
    low, high = np.maximum(number - _BESIDE, 0), np.minimum(number + _BESIDE + 1, len(counts))
    rest = sums[-1] - (sums[high] - sums[low]) + 0.5
    return -(counts * np.log2(rest / rest.sum(axis=1, keepdims=True))).sum(axis=1) / BLOCK
