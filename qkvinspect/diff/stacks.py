"""Match layers whose names have nothing in common by their order, where shapes allow only one order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from qkvinspect.diff.pairing import Pair
from qkvinspect.inspection.names import numberless
from qkvinspect.inspection.report import Attention
from qkvinspect.late_pattern import late_pattern

Signature = tuple[object, ...]
Stack = Sequence[Attention]

_BLOCK = late_pattern(r"blk\.\d{1,9}")


def pair_by_order(a: Sequence[Attention], b: Sequence[Attention], matched: Iterable[Pair]) -> tuple[list[Pair], int]:
    """Stacks (layers whose names differ in their numbers only) of which no layer has been matched.

    Returns:
        the pairs, and how many layers of A have the shapes of some in B, but of more than one stack.
    """
    pairs = list(matched)
    paired_a, paired_b = {pair.a for pair in pairs}, {pair.b for pair in pairs}
    of_a, of_b = _stacks(a, paired_a), _stacks(b, paired_b)
    found: list[Pair] = []
    undecided = 0
    for signature, stacks in of_a.items():
        others = of_b.get(signature, [])
        if len(stacks) == len(others) == 1:
            found += [Pair(x.layer, y.layer, "order") for x, y in zip(stacks[0], others[0], strict=True)]
        elif others:
            settled = list(_settled(stacks, others)) if _converted(a) != _converted(b) else []
            found += [
                Pair(x.layer, y.layer, "order") for one, other in settled for x, y in zip(one, other, strict=True)
            ]
            undecided += sum(map(len, stacks)) - sum(len(one) for one, _ in settled)
    if not found:
        left = (
            [one for one in a if one.layer not in paired_a],
            [one for one in b if one.layer not in paired_b],
        )
        found = _by_block(*left)
        undecided = 0 if found else undecided
    return found, undecided


def _converted(attentions: Sequence[Attention]) -> bool:
    """Whether a converter gave the layers names of its own."""
    return any(one.layout is not None and one.layout.rewritten_by for one in attentions)


def _settled(stacks: Sequence[Stack], others: Sequence[Stack]) -> Iterator[tuple[Stack, Stack]]:
    """Stacks of the same shapes that what V holds in their first layers, or else what their names call them, pairs.

    V, because no converter permutes the rows in its heads.
    """
    from qkvinspect.diff.by_values import alike

    sides = [{v.weight.name: stack for stack in side if (v := stack[0].part("v"))} for side in (stacks, others)]
    weights = [{name: one.weight for name, s in side.items() if (one := s[0].part("v"))} for side in sides]
    same = dict(alike(weights[0], weights[0], weights[1], weights[1]))
    backwards = dict(alike(weights[0], weights[0], weights[1], [*weights[1]][::-1]))
    same = dict(same.items() & backwards.items())  # of equal ones each goes with any other
    yield from ((sides[0][name], sides[1][other]) for name, other in same.items())
    left = [
        [stack for name, stack in side.items() if name not in known]
        for side, known in zip(sides, (same.keys(), set(same.values())), strict=True)
    ]
    roles = [{_role(stack[0].layer): stack for stack in side} for side in left]
    if roles[0].keys() == roles[1].keys() and all(len(r) == len(side) for r, side in zip(roles, left, strict=True)):
        yield from ((stack, roles[1][role]) for role, stack in roles[0].items())


def _role(layer: str) -> tuple[bool, bool]:
    """Whether its name calls a layer one of a decoder, and one that attends to an encoder."""
    words = layer.lower()
    cross = any(word in words for word in ("cross", "encdec", "encoder_attn"))
    return cross or re.search(r"(^|\.)dec(oder)?\.", words) is not None, cross


def _by_block(a: Sequence[Attention], b: Sequence[Attention]) -> list[Pair]:
    """Layers of a GGUF file, whose names are numbers of layers whatever kind of attention they hold, with the only
    layers of those numbers.
    """
    if not any(side and all(_BLOCK.fullmatch(one.layer) for one in side) for side in (a, b)):
        return []
    ours, theirs = ({_number(one.layer): one for one in side} for side in (a, b))
    if ours.keys() != theirs.keys() or (len(ours), len(theirs)) != (len(a), len(b)):
        return []
    if any(_shapes(one) != _shapes(theirs[number]) for number, one in ours.items()):
        return []
    return [Pair(one.layer, theirs[number].layer, "order") for number, one in ours.items()]


def _number(layer: str) -> str:
    found = re.search(r"\d{1,9}", layer)
    return found[0] if found else ""


def _shapes(attention: Attention) -> list[tuple[int, ...]]:
    return [part.shape for part in attention.parts if part.name in ("q", "k", "v")]


def _stacks(attentions: Sequence[Attention], matched: set[str]) -> dict[Signature, list[list[Attention]]]:
    """Stacks by the shapes of their layers, in the order of the numbers in their names."""
    by_name: dict[tuple[str, ...], list[Attention]] = {}
    for attention in attentions:
        by_name.setdefault(numberless(tuple(attention.layer.split("."))), []).append(attention)
    found: dict[Signature, list[list[Attention]]] = {}
    for stack in by_name.values():
        if all(one.layer not in matched and one.parts for one in stack):
            ordered = sorted(stack, key=lambda one: [int(number) for number in re.findall(r"\d{1,9}", one.layer)])
            signature = tuple((tuple(part.shape for part in one.parts)) for one in ordered)
            found.setdefault(signature, []).append(ordered)
    return found
