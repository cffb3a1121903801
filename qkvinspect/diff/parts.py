"""The parts of an attention module that are compared, as rows in the order (head, dim)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from qkvinspect.checkpoint import Orientation
from qkvinspect.diff.ordered_rows import Lines, flip, head_runs
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts import put_back
from qkvinspect.layouts.packing import Geometry, merge
from qkvinspect.weights.weight import Weight

Parts = dict[str, Lines]
"""``q``, ``k``, ``v``, ``out`` and the same with ``_bias``; or stored tensors by the ends of their names."""


def parts_of(attention: Attention, *, unpaired: bool = False, by_heads: bool = False) -> Parts:
    """The parts of a module whose layout is known; the output projection by its columns, which are heads' rows.

    Args:
        unpaired: put the rows of heads whose halves lie in turn (llama.cpp) in the order that transformers has; and
            heads of V that lie apart though they belong to one head of K.
        by_heads: take the columns of the output projection in the order of its heads, and no others.
    """
    found: Parts = {}
    apart = shared_apart(attention) if unpaired else 1
    for part in attention.parts:
        found[part.name] = Lines(
            part.weight, part.weight.as_matrix(part.orientation), _rows(attention, part.name, part.heads, unpaired)
        )
    output, v = attention.output, attention.part("v")
    if output is not None:
        matrix = output.weight.as_matrix(output.orientation)
        found["out"] = flip(Lines(output.weight, matrix, (range(matrix.rows),)))
        if by_heads:
            found["out"] = replace(found["out"], runs=output.rows)
        if apart > 1 and v is not None and matrix.cols % len(v.heads) == 0:
            heads = head_runs(matrix.cols, len(v.heads))
            found["out"] = replace(found["out"], runs=tuple(put_back.together(heads, apart)))
    for part in attention.parts:
        if part.bias is not None:
            rows = _rows(attention, part.name, part.bias_heads, unpaired, biases=True)
            found[f"{part.name}_bias"] = Lines(part.bias, part.bias.as_matrix("out_in"), rows)
    if attention.out_bias is not None:
        found["out_bias"] = whole(attention.out_bias)
    return found


def _rows(
    attention: Attention, part: str, heads: Sequence[range], unpaired: bool, *, biases: bool = False
) -> tuple[range, ...]:
    layout, sizes = attention.layout, attention.heads
    if not unpaired or layout is None or sizes is None or part not in put_back.reordered(layout, sizes, biases=biases):
        return merge(heads)
    return tuple(chain.from_iterable(put_back.put_back(layout, sizes, part, heads)))


def with_heads_of(one: Attention, other: Attention) -> Attention:
    """A module whose heads are not known, cut into those of the other side, if they must be known to order its rows.

    A GGUF file without a number of heads has its rows in turn all the same.
    """
    sizes, layout = other.heads, one.layout
    if one.heads is not None or sizes is None or layout is None or not (layout.paired or layout.by_fours):
        return one
    counts = {part.name: sizes.heads(part.name) for part in one.parts}
    if any(len(part.heads) != 1 or part.shape[0] % counts[part.name] for part in one.parts):
        return one
    parts = tuple(
        replace(part, heads=_cut(part.heads, counts[part.name]), bias_heads=_cut(part.bias_heads, counts[part.name]))
        for part in one.parts
    )
    return replace(one, parts=parts, geometry=sizes, heads_fact=other.heads_fact)


def _cut(whole: Sequence[range], heads: int) -> tuple[range, ...]:
    """The rows of each head, of one run for all of them; a part without a bias has none of these."""
    return tuple(run[own.start : own.stop] for run in whole for own in head_runs(len(run), heads))


def paired(attention: Attention) -> tuple[str, ...]:
    """Parts in whose heads the rows of the two halves lie in turn, where the heads are known."""
    return attention.layout.paired if attention.layout is not None and attention.heads is not None else ()


def paired_biases(attention: Attention) -> tuple[str, ...]:
    """Those of which the biases lie so too."""
    return () if attention.layout is None or attention.layout.biases_stay else paired(attention)


def by_fours(attention: Attention) -> tuple[str, ...]:
    """Parts in whose heads the first two of each four rows come before the last two, where the heads are known."""
    return attention.layout.by_fours if attention.layout is not None and attention.heads is not None else ()


def shared_apart(attention: Attention) -> int:
    """How many heads of V each head of K has, if a converter put the first of every one before the second; else 1."""
    layout, heads = attention.layout, attention.heads
    return 1 if layout is None or heads is None else put_back.shared_apart(layout, heads)


def stored_of(attention: Attention) -> Parts:
    """The stored weights, for modules whose parts are not known."""
    return {weight.name.removeprefix(f"{attention.layer}."): whole(weight) for weight in attention.weights}


def whole(weight: Weight, orientation: Orientation = "out_in") -> Lines:
    """All of a weight, by its first axis, or by its second.

    Raises:
        LayoutError: its strides give it no form of rows and columns.
    """
    matrix = weight.as_matrix(orientation)
    return Lines(weight, matrix, (range(matrix.rows),))


def common_heads(a: Attention, b: Attention) -> Geometry | None:
    """The sizes of the heads, from whichever side knows them; None where the two disagree."""
    one, other = a.heads, b.heads
    if one and other and (one.num_heads, one.num_kv_heads) != (other.num_heads, other.num_kv_heads):
        return None
    return one or other


def heads_of(name: str, lines: Lines, geometry: Geometry | None) -> list[range]:
    """The rows of each head of a part; none where that cannot be told."""
    part = name.removesuffix("_bias")
    if geometry is None or part not in ("q", "k", "v", "out") or name == "out_bias":
        return []
    heads = geometry.num_heads if part == "out" else geometry.heads(part)
    return list(head_runs(lines.rows, heads))


def tensors_of(attention: Attention) -> set[str]:
    """The stored names of all that is compared as part of the module."""
    names = {info.name for info in attention.weights} | set(attention.tensors.values())
    out = attention.tensors.get("out")
    if out is not None and (attention.out is None or len(attention.out.shape) < 2):
        names.discard(out)
    return names
