"""Whether what a tensor has beside rows and columns may be the kernel of a convolution."""

from __future__ import annotations

from collections.abc import Sequence

KERNEL = 7
"""The size up to which a further axis is that of a convolution."""


def are_blocks(shape: Sequence[int]) -> bool:
    """Whether it may be a square matrix for each of some groups, the blocks of a diagonal: xLSTM's [blocks, d, d].

    No convolution looks at as many positions as it reads channels.
    """
    return len(shape) == 3 and shape[1] == shape[2] > 1 < shape[0]


def is_convolution(shape: Sequence[int], leaf: str = "weight") -> bool:
    """Whether further axes may be a kernel: short, or as wide as high; also where there are none.

    Args:
        leaf: the last component of its name. What Flax and Keras call ``kernel`` has a window first, [3, in, out], or
            axes of heads, [in, heads, head_dim]: its first axis never counts rows.
    """
    window = shape[2:]
    if window and (leaf == "kernel" or are_blocks(shape)):
        return False
    return not window or max(window) <= KERNEL or (len(window) > 1 and len(set(window)) == 1)
