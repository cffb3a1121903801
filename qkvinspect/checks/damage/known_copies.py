"""Whether bytes that stand at two places are parts or heads that are equal as a whole: not damage of its own."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.damage.stored_bytes import StoredTensor
from qkvinspect.checks.head_values import HeadValues
from qkvinspect.checks.subject import Subject
from qkvinspect.inspection.report import Part

_CHANCE = 16
"""Bytes at either end of a run that may be equal by chance: the next head begins with the same ones."""


def is_known(subject: Subject, one: StoredTensor, first: int, other: StoredTensor, second: int, size: int) -> bool:
    """Whether whole tensors, parts or heads are equal there: that is intent, or a finding of its own."""
    alike = {part.name for part in one.parts} == {part.name for part in other.parts}
    if alike and first == second == 0 and size == one.nbytes == other.nbytes:
        return True
    within = min(_CHANCE, size // 2)
    ends = [(first + at, second + at) for at in (within, size - 1 - within)]
    if one is other and all(_of_one_kv_head(subject, one, *end) for end in ends):
        return True
    return all(_equal_there(subject, one, mine, other, its) for mine, its in ends)


def _of_one_kv_head(subject: Subject, tensor: StoredTensor, first: int, second: int) -> bool:
    """Whether two bytes of a tensor are of one row of a kv head that was repeated."""
    for part in tensor.parts:
        copies = subject.kv_copies.get((part.weight.name, part.name))
        if copies is None or part.axis or tensor.row_bytes * tensor.weight.shape[0] != tensor.nbytes:
            continue
        places = [_place(part, at // tensor.row_bytes) for at in (first, second)]
        if places[0] is not None and places[1] is not None and copies.same_head(places[0], places[1]):
            return True
    return False


def _place(part: Part, row: int) -> int | None:
    """Which row of the part a row of its tensor is."""
    before = 0
    for run in part.rows:
        if row in run:
            return before + run.index(row)
        before += len(run)
    return None


def _equal_there(subject: Subject, one: StoredTensor, first: int, other: StoredTensor, second: int) -> bool:
    """Whether two bytes belong to equal heads of one part of a layer, or to parts that are equal as a whole."""
    for name, mine, head in _heads(subject, one, first):
        for of, others, beside in _heads(subject, other, second):
            itself = (one.info.name, name) == (other.info.name, of)
            if mine == others and not itself and _is_told(subject, mine, (one.layer, name), (other.layer, of)):
                return True
            heads = one.layer, name, mine[head].digest
            if heads == (other.layer, of, others[beside].digest) and not (itself and head == beside):
                return True
    return False


def _is_told(subject: Subject, values: tuple[HeadValues, ...], first: tuple[str, str], second: tuple[str, str]) -> bool:
    """Whether other checks tell of these equal parts: of one layer, or of one name, as those of tied layers are.

    Where the K of every layer is its V too, and layers are tied, the K of one is the V of another.
    """
    (layer, name), (other, of) = first, second
    if layer == other or name == of:
        return True
    return any(
        subject.values.get((part.weight.name, part.name)) == values
        for held, wanted in ((layer, of), (other, name))
        for attention in subject.by_layer.get(held, ())
        for part in attention.parts
        if part.name == wanted
    )


def _heads(subject: Subject, tensor: StoredTensor, place: int) -> Iterator[tuple[str, tuple[HeadValues, ...], int]]:
    """Parts that a byte belongs to, with the values of their heads and the number of the head."""
    for name, heads in tensor.heads_at(place, place + 1).items():
        (part,) = (part for part in tensor.parts if part.name == name)
        values = subject.values.get((part.weight.name, name), ())
        yield from ((name, values, head) for head in heads if head < len(values))
