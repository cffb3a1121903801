"""Match layers whose names have nothing in common by their order, where shapes allow only one order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from qkvinspect.diff.pairing import Pair
from qkvinspect.inspection.names import numberless
from qkvinspect.inspection.report import Attention
from qkvinspect.late_pattern import late_pattern

Signature = tuple[object, ...]

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
            undecided += sum(map(len, stacks))
    if not found:
        left = (
            [one for one in a if one.layer not in paired_a],
            [one for one in b if one.layer not in paired_b],
        )
        found = _by_block(*left)
        undecided = 0 if found else undecided
    return found, undecided


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
