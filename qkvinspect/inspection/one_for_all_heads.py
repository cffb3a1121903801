"""One projection that every head uses: Linear(head_dim, head_dim) applied to each head's share of the input.

A tutorial has it so (aladdinpersson's transformer_from_scratch). All rows are those of each head: in the tensors there
is one head, whatever a config says of those that use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.names import Names
from qkvinspect.layouts import Layout

ALL_ROWS = "every head uses all rows of each projection, on its own share of the input"


def heads_share(shapes: Sequence[Sequence[int]], outputs: Iterable[Sequence[int]]) -> bool:
    """Whether Q, K and V are squares of one size, and the output projection one that is several times as wide."""
    if len(shapes) != 3 or len({*map(tuple, shapes)}) > 1 or len(shapes[0]) != 2 or shapes[0][0] != shapes[0][1]:
        return False
    size, wide = shapes[0][0], [tuple(shape) for shape in outputs if len(shape) == 2]
    return bool(wide) and all(rows == cols > size and cols % size == 0 for rows, cols in wide)


def with_one_head(candidates: Iterable[Candidate], names: Names) -> list[Candidate]:
    """The candidates, of one head where all share the projections."""
    return [replace(one, layout=_of_one(one.layout)) if _is_shared(one, names) else one for one in candidates]


def _is_shared(one: Candidate, names: Names) -> bool:
    if one.layout.num_heads is not None or one.layout.found_by == "settings":
        return False
    outputs = [found.shape for key in one.layout.out if (found := names.find(key, one.path)) is not None]
    return heads_share([weight.shape for weight in one.weights], outputs)


@lru_cache
def _of_one(layout: Layout) -> Layout:
    return replace(layout, num_heads=1, note=ALL_ROWS)
