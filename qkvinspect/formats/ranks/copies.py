"""Compare the ranks' copies of one tensor: small ones byte by byte, large ones in many places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.checkpoint import TensorInfo

_ALL = 1 << 20
_BLOCK = 4096
_PLACES = 64


def are_equal(infos: Sequence[TensorInfo]) -> bool:
    """Whether tensors are the same, as far as a sample of up to 256 KiB tells where they hold more than 1 MiB.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    first = infos[0]
    if any((info.shape, info.dtype) != (first.shape, first.dtype) for info in infos):
        return False
    return all(mine == other for others in infos[1:] for mine, other in zip(_bytes(first), _bytes(others), strict=True))


def is_varied(info: TensorInfo) -> bool:
    """Whether it holds different bytes: equal tensors of one value are no sign of copies."""
    return any(len(set(data)) > 1 for data in _bytes(info))


def _bytes(info: TensorInfo) -> Iterator[bytes]:
    """The bytes of the tensor, or of places spread over it; of the region it spans where it does not lie together."""
    bits = info.dtype.bits
    spread = sum((size - 1) * step for size, step in zip(info.shape, info.strides, strict=True)) + 1
    start, size = info.offset * bits // 8, -(-spread * bits // 8)
    if not info.numel:
        return
    if size <= _ALL:
        yield info.region.read(start, size)
        return
    for place in range(_PLACES):
        yield info.region.read(start + place * (size - _BLOCK) // (_PLACES - 1), _BLOCK)
