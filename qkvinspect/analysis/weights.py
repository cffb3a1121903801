"""The weights of a part as numbers, float64, one head after another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from qkvinspect.checkpoint import Orientation
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.layouts.packing import merge
from qkvinspect.weights.reading import Array
from qkvinspect.weights.values import rows_of_values
from qkvinspect.weights.weight import Weight


def no_values(weight: Weight) -> str:
    """Why nothing is computed from a weight; "" where something is."""
    if weight.no_values or weight.encoding is not None or weight.dtype.kind == "float":
        return weight.no_values
    return f"{weight.dtype.name} is not a real number"


_MOST = 1e60
"""The product of four such values is still finite in float64."""


def unusable(rows: Array) -> str:
    """Why nothing is computed from some numbers, as a clause: "has values ..."; "" where something is."""
    most = max(rows.max(), -rows.min()) if rows.size else 0.0  # NaN where there is one: it is both
    if not np.isfinite(most):
        return "has values that are not finite"
    return f"has values above {_MOST:g}" if most > _MOST else ""


def of_part(part: Part) -> Array:
    """The rows of all heads, [heads * width, in].

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    return _rows(part.weight, part.orientation, part.rows)


def of_parts(parts: Sequence[Part]) -> list[Array]:
    """The rows of each of some parts; those of one tensor are read at once.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if len({(part.weight.name, part.orientation) for part in parts}) != 1:
        return [of_part(part) for part in parts]
    rows = _rows(parts[0].weight, parts[0].orientation, merge(run for part in parts for run in part.rows))
    ends = accumulate(part.shape[0] for part in parts)
    return [rows[end - part.shape[0] : end] for part, end in zip(parts, ends, strict=True)]


def of_output(attention: Attention, inputs: int) -> Array | None:
    """The output projection by its inputs, [heads * width, out], if it takes the heads of V side by side.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    output = attention.output
    if output is None or no_values(output.weight):
        return None
    rows, cols = output.weight.as_shape(output.orientation)
    return _rows(output.weight, output.orientation, [range(rows)]).T if cols == inputs else None


def of_vector(weight: Weight) -> Array:
    """All of a small tensor, such as a norm's gain, flat.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    return _rows(weight, "out_in", [range(weight.as_shape("out_in")[0])]).ravel()


def _rows(weight: Weight, orientation: Orientation, rows: Sequence[range]) -> Array:
    with np.errstate(invalid="ignore"):  # signalling NaN
        return rows_of_values(weight.as_matrix(orientation), rows).astype(np.float64)
