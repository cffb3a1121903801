"""Weights of the same name that are transposed in B: Conv1D against Linear, or a single weight."""

from __future__ import annotations

from qkvinspect.diff.relation import Relation, RelationCode
from qkvinspect.inspection.report import Attention
from qkvinspect.weights.weight import Weight


def lying_otherwise(a: Attention, b: Attention, relations: tuple[Relation, ...]) -> tuple[Relation, ...]:
    """What is said of a layer, and which weights of the same name have their axes swapped.

    That alone is how nanoGPT and transformers' GPT-2 differ. Where the output projection lies alike in both, it
    seems transposed because it is read the way that the other weights lie: those were transposed alone.
    """
    ours, theirs = _by_end(a), _by_end(b)
    turned = [
        name
        for name, info in ours.items()
        if name in theirs and info.shape != theirs[name].shape and info.shape == theirs[name].shape[::-1]
    ]
    if not turned or any(one.code is RelationCode.TRANSPOSED and set(turned) & set(one.parts) for one in relations):
        return relations
    shapes = f"{list(ours[turned[0]].shape)} in A and {list(theirs[turned[0]].shape)} in B"
    text = f"{' and '.join(turned)} {'is' if len(turned) == 1 else 'are'} stored as {shapes}"
    out = next((one for one in relations if one.code is RelationCode.TRANSPOSED and one.parts == ("out",)), None)
    if out is None:
        return (*relations, Relation(RelationCode.STORED_TRANSPOSED, text, ()))
    text += ", but the output projection lies alike in both: one was transposed without the other"
    return (
        *(one for one in relations if one is not out),
        Relation(RelationCode.TRANSPOSED_ALONE, text, ("q", "k", "v", "out")),
    )


def _by_end(attention: Attention) -> dict[str, Weight]:
    return {info.name.removeprefix(f"{attention.layer}."): info for info in attention.weights}
