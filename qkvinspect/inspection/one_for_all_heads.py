"""One projection that every head uses: Linear(head_dim, head_dim) applied to each head's share of the input.

A tutorial has it so (aladdinpersson's transformer_from_scratch). All rows are those of each head, whatever a config
says of how many there are: no number of heads cuts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.names import Names
from qkvinspect.layouts import Layout


def heads_that_share(shapes: Sequence[Sequence[int]], outputs: Iterable[Sequence[int]]) -> int:
    """How many heads use all rows of Q, K and V; 0 where each has rows of its own, as far as shapes tell.

    The three are squares of one size, and the output projection is one that is so many times as wide.
    """
    if len(shapes) != 3 or len({*map(tuple, shapes)}) > 1 or len(shapes[0]) != 2 or shapes[0][0] != shapes[0][1]:
        return 0
    size, wide = shapes[0][0], {tuple(shape) for shape in outputs if len(shape) == 2}
    if len(wide) != 1:
        return 0
    ((rows, cols),) = wide
    return cols // size if rows == cols > size and cols % size == 0 else 0


def with_heads_that_share(candidates: Iterable[Candidate], names: Names) -> list[Candidate]:
    """The candidates, marked where all heads share the projections."""
    return [
        replace(one, layout=shared_by(one.layout, count)) if (count := _count(one, names)) else one
        for one in candidates
    ]


def _count(one: Candidate, names: Names) -> int:
    if one.layout.num_heads is not None or one.layout.found_by == "settings":
        return 0
    outputs = [found.shape for key in one.layout.out if (found := names.find(key, one.path)) is not None]
    return heads_that_share([weight.shape for weight in one.weights], outputs)


@lru_cache
def shared_by(layout: Layout, count: int) -> Layout:
    """The layout where so many heads use all rows."""
    said = f"each of {count} heads uses all rows of Q, K and V, on its own share of the input"
    return replace(layout, heads_on_all_rows=count, note=said)


def why_not_cut(layout: Layout) -> str:
    """Why no number of heads cuts the rows."""
    return f"{layout.note}: no rows are those of one head alone"
