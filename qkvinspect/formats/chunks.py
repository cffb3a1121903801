"""Check that the chunks of a tensor hold each of its elements exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product
from math import prod

from qkvinspect.checkpoint import ByteSource, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DType
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.formats.assembled import Assembled, Box
from qkvinspect.formats.limits import Limits

Extents = tuple[tuple[int, ...], tuple[int, ...]]
"""First element and sizes."""


def assembled(
    source: ByteSource,
    name: str,
    key: str,
    dtype: DType,
    shape: tuple[int, ...],
    pieces: Sequence[Box],
    limits: Limits,
) -> TensorInfo:
    """Join the pieces of a tensor of ``shape``.

    Args:
        source: the file that tells of the pieces.
        key: the tensor's name there.

    Raises:
        CheckpointError: they do not fill it exactly.
    """
    _check_cover(shape, [(piece.at, piece.sizes) for piece in pieces], source.name, key, limits)
    region = Assembled(source, dtype, shape, pieces)
    return TensorInfo(name, dtype, shape, contiguous_strides(shape), region, keys=(key,))


def _check_cover(shape: tuple[int, ...], boxes: Sequence[Extents], file: str, name: str, limits: Limits) -> None:
    """Compare signed corners: boxes tile a box exactly if their corners, with alternating signs, sum to its own."""
    for at, sizes in boxes:
        if not len(at) == len(sizes) == len(shape) or any(
            a + n > whole for a, n, whole in zip(at, sizes, shape, strict=True)
        ):
            raise CheckpointError(
                "a chunk is not within its tensor",
                code=Code.CHUNK_OUTSIDE,
                file=file,
                tensor=name,
                expected=f"shape {list(shape)}",
                found=f"{list(sizes)} at {list(at)}",
                hint="the checkpoint is damaged",
            )
    full = [box for box in boxes if 0 not in box[1]]
    cut = [axis for axis, whole in enumerate(shape) if any(at[axis] or sizes[axis] != whole for at, sizes in full)]
    limits.check("objects", len(full) << len(cut), file, name)
    corners: Counter[tuple[int, ...]] = Counter()
    for weight, (at, sizes) in [*((1, box) for box in full), (-1, ((0,) * len(shape), shape))]:
        if 0 not in sizes:
            for ends in product((0, 1), repeat=len(cut)):
                corner = tuple(at[axis] + end * sizes[axis] for axis, end in zip(cut, ends, strict=True))
                corners[corner] += weight * (-1) ** sum(ends)
    held, whole = sum(prod(sizes) for _, sizes in full), prod(shape)
    if held != whole or any(corners.values()):
        overlap = held >= whole
        raise CheckpointError(
            "chunks overlap" if overlap else "chunks leave part of their tensor out",
            code=Code.CHUNK_OVERLAP if overlap else Code.CHUNK_GAP,
            file=file,
            tensor=name,
            expected=f"{whole} elements for shape {list(shape)}, each once",
            found=f"{held} elements in {len(boxes)} chunks",
            hint="a rank's files are missing or of another checkpoint: copy the folder again",
        )
