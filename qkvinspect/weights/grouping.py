"""Which group of columns each column belongs to, where a file says so (act-order's ``g_idx``)."""

from __future__ import annotations

import numpy as np

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
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


def check_every_group(order: TensorInfo, groups: int) -> None:
    """Where codes are copied and not decoded, so that nothing is written that no reader can use.

    Raises:
        CheckpointError: as of ``checked_groups``.
    """
    for start in range(0, order.numel, _AT_ONCE):
        checked_groups(order, range(start, min(start + _AT_ONCE, order.numel)), groups)
