"""Which group of columns each column belongs to, where a file says so (act-order's ``g_idx``)."""

from __future__ import annotations

import numpy as np

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.weights.packed_codes import groups_of
from qkvinspect.weights.reading import Array
from qkvinspect.weights.strided import strided_matrix
from qkvinspect.weights.values import rows_of_values

_AT_ONCE = 1 << 20


def checked_groups(order: TensorInfo, cols: range, groups: int) -> Array:
    """The group of each of some columns.

    Raises:
        CheckpointError: there is no such group.
    """
    found = rows_of_values(strided_matrix(order, "out_in"), [cols]).ravel()
    wrong = found[(found < 0) | (found >= groups)]
    if len(wrong):
        raise CheckpointError(
            "names a group that is not there",
            code=Code.GROUP_NUMBER,
            tensor=order.name,
            expected=f"0 to {groups - 1}",
            found=int(wrong[0]),
        )
    return found.astype(np.intp)


def groups_in_order(order: TensorInfo | None, cols: range, size: int, groups: int) -> tuple[list[range], Array | None]:
    """The groups to be read, in runs, and the place of each column's among them; None where they go in order.

    Args:
        order: the group of each column; None where neighbours of ``size`` share one.

    Raises:
        CheckpointError: it names a group that is not there.
    """
    if order is None:
        return [groups_of(cols, size)], None
    own = checked_groups(order, cols, groups)
    if np.array_equal(own, np.arange(cols.start, cols.stop) // size):
        return [groups_of(cols, size)], None
    needed, places = np.unique(own, return_inverse=True)
    breaks = np.flatnonzero(np.diff(needed) != 1) + 1
    return [range(int(run[0]), int(run[-1]) + 1) for run in np.split(needed, breaks)], places


def check_every_group(order: TensorInfo, groups: int) -> None:
    """Where codes are copied and not decoded, so that nothing is written that no reader can use.

    Raises:
        CheckpointError: as of ``checked_groups``.
    """
    for start in range(0, order.numel, _AT_ONCE):
        checked_groups(order, range(start, min(start + _AT_ONCE, order.numel)), groups)
