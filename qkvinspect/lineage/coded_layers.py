"""Whether parts of a layer are those of another that were rounded to codes: some whole rows are read for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.lineage.coded_rows import of_few_levels, within_steps
from qkvinspect.weights.reading import Array
from qkvinspect.weights.values import rows_of_values
from qkvinspect.weights.weight import DecodedMatrix

Rows = tuple[int, ...]
_ROWS = 16
"""Of each head that is looked at, evenly spread; all columns of them."""
_HEADS = 4


@dataclass(frozen=True, slots=True)
class Coded:
    """A part of a head that may be codes of another's.

    Attributes:
        part: q, k, v or o.
        source, target: the heads.
        order: of which row of the source each row is.
    """

    part: str
    source: int
    target: int
    order: Rows


def coded(source: Attention, target: Attention, heads: Sequence[Coded]) -> bool:
    """Whether every number of some rows is the source's, rounded to codes.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    for name in "qkv":
        its = [one for one in heads if one.part == name]
        some = its[:: max(len(its) // _HEADS, 1)] + its[-1:]
        if not all(_rows_coded(source, target, one) for one in some):
            return False
    outputs = [one for one in heads if one.part == "o"]
    return not outputs or _output_coded(source, target, outputs)


def _rows_coded(source: Attention, target: Attention, one: Coded) -> bool:
    ours, theirs = source.part(one.part), target.part(one.part)
    assert ours is not None
    assert theirs is not None
    own, its = (part.heads[_place(layer, part, head)] for layer, part, head in
                ((source, ours, one.source), (target, theirs, one.target)))  # fmt: skip
    some = range(0, len(its), max(len(its) // _ROWS, 1))
    lines = [range(own[one.order[row]], own[one.order[row]] + 1) for row in some]
    values = rows_of_values(ours.weight.as_matrix(ours.orientation), lines).astype(np.float64)
    return _is_coded(values, theirs, its[some.start : some.stop : some.step], slice(None))


def _place(layer: Attention, part: Part, head: int) -> int:
    assert layer.heads is not None
    return head if part.name == "q" else layer.heads.kv_head(head)


def _output_coded(source: Attention, target: Attention, heads: Sequence[Coded]) -> bool:
    """Heads are columns here: some rows are read, and their columns put in the target's order."""
    ours, theirs = source.output, target.output
    assert ours is not None
    assert theirs is not None
    rows = ours.weight.as_shape(ours.orientation)[0]
    some = range(0, rows, max(rows // (2 * _ROWS), 1))
    by_target = sorted(heads, key=lambda one: theirs.heads[one.target][0])
    columns = [ours.heads[one.source][row] for one in by_target for row in one.order]
    its = [column for one in by_target for column in theirs.heads[one.target]]
    lines = [range(row, row + 1) for row in some]
    values = rows_of_values(ours.weight.as_matrix(ours.orientation), lines).astype(np.float64)[:, columns]
    return _is_coded(values, theirs, some, np.array(its))


def _is_coded(values: Array, part: Part, rows: range, columns: Array | slice) -> bool:
    matrix = part.weight.as_matrix(part.orientation).take(rows)
    if isinstance(matrix, DecodedMatrix):
        steps = matrix.slack()
        found = matrix.decode().astype(np.float64)[:, columns]
        if steps is not None:
            steps = np.broadcast_to(steps, (matrix.rows, matrix.cols))[:, columns]
        return within_steps(values, found, steps)
    found = rows_of_values(part.weight.as_matrix(part.orientation), [rows]).astype(np.float64)[:, columns]
    return of_few_levels(values, found, part.weight.dtype.rounding)
