"""The weights of a part as numbers, float64, one head after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qkvinspect.checkpoint import Orientation, TensorInfo
from qkvinspect.inspection.adapters_and_wrappers import scale_of
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.weights.norms import scales_of
from qkvinspect.weights.reading import Array, blocks, gather, numbers
from qkvinspect.weights.strided import as_matrix


def has_values(info: TensorInfo, tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the stored numbers are the weights, or their scales are known."""
    if info.dtype.kind != "float":
        return False
    scale = scale_of(info, tensors)
    return scale is None or scales_of(scale, as_matrix(info, "out_in")) is not None


def of_part(part: Part, tensors: Mapping[str, TensorInfo]) -> Array:
    """The rows of all heads, [heads * width, in].

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    return _rows(part.weight, part.orientation, part.heads, tensors)


def of_output(attention: Attention, inputs: int, tensors: Mapping[str, TensorInfo]) -> Array | None:
    """The output projection by its inputs, [heads * width, out], if it takes the heads of V side by side.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    info, layout = attention.out, attention.layout
    if info is None or layout is None or len(info.shape) < 2 or not has_values(info, tensors):
        return None
    rows = as_matrix(info, layout.out_orientation).rows
    if info.numel != rows * inputs:
        return None
    return _rows(info, layout.out_orientation, [range(rows)], tensors).T


def of_vector(info: TensorInfo) -> Array:
    """All of a small tensor, such as a norm's gain, flat.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    return _rows(info, "out_in", [range(as_matrix(info, "out_in").rows)], {}).ravel()


def _rows(
    info: TensorInfo, orientation: Orientation, rows: Sequence[range], tensors: Mapping[str, TensorInfo]
) -> Array:
    matrix, scale = as_matrix(info, orientation), scale_of(info, tensors)
    scales = scales_of(scale, matrix) if scale is not None else None
    if scales is None:
        return numbers(gather(matrix, rows), info.dtype)[0].astype(np.float64)
    whole = np.empty((matrix.rows, matrix.cols))
    for down, across, words in blocks(matrix):
        whole[down, across] = numbers(words, info.dtype)[0] * scales(down, across)
    return whole[np.concatenate([np.arange(run.start, run.stop, run.step) for run in rows])]
