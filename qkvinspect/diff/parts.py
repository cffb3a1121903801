"""What of an attention module is compared with what: its parts as rows in the order (head, dim)."""

from __future__ import annotations

from qkvinspect.diff.ordered_rows import Lines, flip, head_runs
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import Geometry, merge
from qkvinspect.weights.weight import Weight

Parts = dict[str, Lines]
"""``q``, ``k``, ``v``, ``out`` and the same with ``_bias``; or stored tensors by the ends of their names."""


def parts_of(attention: Attention) -> Parts:
    """The parts of a module whose layout is known; the output projection by its columns, which are heads' rows."""
    found: Parts = {}
    for part in attention.parts:
        found[part.name] = Lines(part.weight, part.weight.as_matrix(part.orientation), part.rows)
    output = attention.output
    if output is not None:
        matrix = output.weight.as_matrix(output.orientation)
        found["out"] = flip(Lines(output.weight, matrix, (range(matrix.rows),)))
    for part in attention.parts:
        if part.bias is not None:
            found[f"{part.name}_bias"] = Lines(part.bias, part.bias.as_matrix("out_in"), merge(part.bias_heads))
    if attention.out_bias is not None:
        found["out_bias"] = whole(attention.out_bias)
    return found


def stored_of(attention: Attention) -> Parts:
    """The stored weights as they are."""
    return {weight.name.removeprefix(f"{attention.layer}."): whole(weight) for weight in attention.weights}


def whole(weight: Weight) -> Lines:
    """All of a weight, by its first axis.

    Raises:
        LayoutError: its strides give it no form of rows and columns.
    """
    matrix = weight.as_matrix("out_in")
    return Lines(weight, matrix, (range(matrix.rows),))


def common_heads(a: Attention, b: Attention) -> Geometry | None:
    """The heads of both, as one side at least knows them; None where the two disagree."""
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
