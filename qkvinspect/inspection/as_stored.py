"""Where the rows of a part lie in the tensor that the file holds, which may be a small matrix for each head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkvinspect.weights.head_stack import HeadStack
from qkvinspect.weights.weight import Weight

if TYPE_CHECKING:
    from qkvinspect.inspection.report import Part


def stored_shape(weight: Weight) -> tuple[int, ...]:
    """The shape in the file."""
    return weight.encoding.info.shape if isinstance(weight.encoding, HeadStack) else weight.shape


def stored_axis(part: Part) -> int:
    """The axis that ``stored_runs`` are of, in the stored tensor, or in its ``flatten(1)`` where it has three axes."""
    if isinstance(part.weight.encoding, HeadStack):
        return int(part.weight.encoding.axes[0] != 0)
    return part.axis


def stored_runs(part: Part, runs: Sequence[range]) -> list[range]:
    """Rows of a part along that axis: [heads, in, head_dim] has whole heads there, and not their rows."""
    encoding = part.weight.encoding
    if not isinstance(encoding, HeadStack) or encoding.axes[0] != 0:
        return list(runs)
    dim = encoding.info.shape[encoding.axes[1]]
    return [range(run.start // dim, -(-run.stop // dim)) for run in runs]
