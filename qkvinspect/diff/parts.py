"""What of an attention module is compared with what: its parts as rows in the order (head, dim)."""

from __future__ import annotations

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.diff.ordered_rows import Lines, flip, head_runs
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import Geometry, merge
from qkvinspect.weights.strided import as_matrix

Parts = dict[str, Lines]
"""``q``, ``k``, ``v``, ``out`` and the same with ``_bias``; or stored tensors by the ends of their names."""


def parts_of(attention: Attention, checkpoint: Checkpoint) -> Parts:
    """The parts of a module whose layout is known; the output projection by its columns, which are heads' rows."""
    found: Parts = {}
    for part in attention.parts:
        found[part.name] = Lines(as_matrix(part.weight, part.orientation), part.rows)
    out = attention.out
    if out is not None and len(out.shape) > 1 and attention.layout is not None:
        matrix = as_matrix(out, attention.layout.out_orientation)
        lines = Lines(matrix, (range(matrix.rows),))
        found["out"] = lines if out.dtype.block > 1 else flip(lines)  # a block has no columns of its own
    for part in attention.parts:
        if part.bias is not None:
            found[f"{part.name}_bias"] = Lines(as_matrix(part.bias, "out_in"), merge(part.bias_heads))
    if "out_bias" in attention.tensors:
        found["out_bias"] = whole(checkpoint.tensors[attention.tensors["out_bias"]])
    return found


def stored_of(attention: Attention) -> Parts:
    """The stored weights as they are."""
    return {info.name.removeprefix(f"{attention.layer}."): whole(info) for info in attention.weights}


def whole(info: TensorInfo) -> Lines:
    """All of a tensor, by its first axis.

    Raises:
        LayoutError: its strides give it no form of rows and columns.
    """
    matrix = as_matrix(info, "out_in")
    return Lines(matrix, (range(matrix.rows),))


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
