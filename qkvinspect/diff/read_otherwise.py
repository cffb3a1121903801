"""Tensors of which A takes other rows as Q, K and V than B does: what is stored may be the same all the same."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from qkvinspect.diff.difference import SAME, PartDifference
from qkvinspect.diff.ordered_rows import Lines
from qkvinspect.diff.relation import Relation, RelationCode
from qkvinspect.diff.tally import compare
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.layouts.packing import span

_MOST_RUNS = 2
_PARTS = ("q", "k", "v")


def read_otherwise(
    a: Attention, b: Attention, found: Sequence[PartDifference], relations: Collection[Relation]
) -> tuple[Relation, ...]:
    """What is said of a layer, and of which rows of the same tensors Q, K and V are, where these differ and changed.

    Where the tensors themselves are the same, that is all that there is to say of Q, K and V.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if not any(part.whole.status in ("changed", "reshaped") and part.name in _PARTS for part in found):
        return (*relations,)
    names = [_ends(side) for side in (a, b)]
    if names[0] != names[1] or not _taken_otherwise(a, b):
        return (*relations,)
    statuses = [_stored(a, b, index) for index in range(len(a.weights))]
    if "reshaped" in statuses:
        return (*relations,)
    same = all(status in SAME for status in statuses)
    if not same:
        stored = "the tensors themselves differ as well"
    elif all(status == "identical" for status in statuses):
        stored = "the tensors themselves are the same"
    else:
        stored = "the tensors themselves are the same but for rounding"
    text = f"A and B take other rows as Q, K and V, and {stored}: in A, {_said(a)}; in B, {_said(b)}"
    graphs = [side.layout_from == "graph" for side in (a, b)]
    if same and graphs[0] != graphs[1] and "names" in (a.layout_from, b.layout_from):
        here, other = ("A", "B") if graphs[0] else ("B", "A")
        text += f"; the graph of {here} is what the model computes, the names in {other} say what is usual"
    explained = (*_PARTS, *(f"{part}_bias" for part in _PARTS)) if same else ()
    told = Relation(RelationCode.READ_OTHERWISE, text, explained)
    return (told, *(one for one in relations if not set(one.parts) <= {*explained}))


def _ends(attention: Attention) -> list[str]:
    """What the tensors are called below the layer."""
    return [weight.name.removeprefix(f"{attention.layer}.") for weight in attention.weights]


def _taken_otherwise(a: Attention, b: Attention) -> bool:
    return any(_place(a, name) != _place(b, name) for name in _PARTS)


def _place(attention: Attention, name: str) -> tuple[str, tuple[range, ...]] | None:
    part = attention.part(name)
    return None if part is None else (part.weight.name.removeprefix(f"{attention.layer}."), part.rows)


def _stored(a: Attention, b: Attention, index: int) -> str:
    """How a tensor of A compares with that of B, whatever its rows are."""
    sides: list[Lines] = []
    for attention in (a, b):
        assert attention.layout is not None
        weight = attention.weights[index]
        matrix = weight.as_matrix(attention.layout.weights[index].orientation)
        sides.append(Lines(weight, matrix, (range(matrix.rows),)))
    return compare(sides[0], sides[1], (), None, lambda _: None)[0].status


def _said(attention: Attention) -> str:
    """``by the names of its tensors (timm-vit), Q 0:24, K 24:48, V 48:72 of qkv.weight``."""
    told = {"names": "by the names of its tensors", "graph": "as its graph computes them", "flag": "by --layout"}
    how = told.get(attention.layout_from, f"by {attention.layout_from}")
    by_tensor: dict[str, list[str]] = {}
    for name in _PARTS:
        part = attention.part(name)
        if part is not None:
            by_tensor.setdefault(part.weight.name.removeprefix(f"{attention.layer}."), []).append(_rows(part))
    said = ", ".join(f"{', '.join(rows)} of {tensor}" for tensor, rows in by_tensor.items())
    layout = f" ({attention.layout.id})" if attention.layout and attention.layout_from != "graph" else ""
    return f"{how}{layout}, {said}"


def _rows(part: Part) -> str:
    runs = part.rows
    more = " ..." * (len(runs) > _MOST_RUNS)
    return f"{part.name.upper()} {' '.join(map(span, runs[:_MOST_RUNS]))}{more}"
