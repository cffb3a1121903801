"""Whether one checkpoint is another that was rounded to codes: every number that is looked at lies within a step."""

from __future__ import annotations

import numpy as np

from qkvinspect.inspection.report import Attention, Part
from qkvinspect.lineage.relatives import Relative
from qkvinspect.weights.values import rows_of_values
from qkvinspect.weights.weight import DecodedMatrix

_ROWS = 16
"""Of each part of each layer, evenly spread; all columns of them."""
_SURE = 1.001
_OF_SCALE = 2.0**-10
"""The scales of codes are rounded, too, often to float16."""


def rounded_to_codes(fine: Relative, coarse: Relative) -> bool:
    """Whether ``coarse`` holds codes, and each means what ``fine`` has there, in the same place, but for its step.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if len(fine.layers) != len(coarse.layers):
        return False
    answers: list[bool] = []
    for one, other in zip(fine.layers, coarse.layers, strict=True):
        for part, coded in zip(_parts(one), _parts(other), strict=True):
            if coded.weight.encoding is not None:
                answers.append(len(part.heads) == len(coded.heads) and _within(part, coded))
    return bool(answers) and all(answers)


def _parts(layer: Attention) -> list[Part]:
    every = (*map(layer.part, "qkv"), layer.output)
    return [part for part in every if part is not None]


def _within(part: Part, coded: Part) -> bool:
    """Whether some rows of its first and its last head lie within the steps of their codes."""
    if part.name == "out":  # its heads are columns
        every = range(part.weight.as_shape(part.orientation)[0])
        return _rows_within(part, every, coded, every)
    return all(_rows_within(part, part.heads[head], coded, coded.heads[head]) for head in (0, -1))


def _rows_within(part: Part, rows: range, coded: Part, same: range) -> bool:
    some = slice(0, len(rows), max(len(rows) // _ROWS, 1))
    codes = coded.weight.as_matrix(coded.orientation).take(same[some])
    numbers = rows_of_values(part.weight.as_matrix(part.orientation), [rows[some]])
    if not isinstance(codes, DecodedMatrix) or numbers.shape != (codes.rows, codes.cols):
        return False
    steps = codes.slack()
    gaps = np.abs(codes.decode().astype(np.float64) - numbers)
    return bool((gaps <= (0.0 if steps is None else steps * _SURE) + np.abs(numbers) * _OF_SCALE).all())
